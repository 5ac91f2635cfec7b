"""Targets whose variance falls stop the run."""

import pytest
import torch

from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.distillation.health import VarianceWatch
from espnet_ext.distillation.targets import StoredTargets
from espnet_ext.errors import UserError
from espnet_ext.train.method import Position
from espnet_ext.train.world import World
from tests.distillation.stage1_toy import BOTH, build, micro_of


def test_collapse_stops_the_run():
    """Targets whose variance falls end the training; those that stay do not, also after a resume."""
    watch, world = VarianceWatch(2, 0.1, {"x": 4}), World()
    there = torch.ones(1, 50, dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)

    def steps(watch, scale, first):
        for step in (first, first + 1):
            watch.see("x", scale * torch.randn(1, 50, 4, generator=draw), there)
            found = watch.check(step, world)
        return found["x"]

    assert steps(watch, 1.0, 0) == pytest.approx(1, rel=0.3)
    steps(watch, 0.5, 2)
    resumed = VarianceWatch(2, 0.1, {"x": 4})
    resumed.load_state(watch.state())
    with pytest.raises(UserError, match="variance of target x .* embeddings have collapsed"):
        steps(resumed, 0.2, 4)
    for scale in (0.0, float("nan")):
        with pytest.raises(UserError, match="collapsed"):
            steps(VarianceWatch(2, 0.1, {"x": 4}), scale, 0)


def test_collapse_in_a_training(toy, monkeypatch):
    """A store whose frames become all alike ends the training; no model is left as finished."""
    original, read = StoredTargets.read, []

    def shrinking(self, data_dir, passes, utterance):
        read.append(utterance)
        found = original(self, data_dir, passes, utterance)
        return {n: v * (0 if len(read) > 40 and n == "target_two" else 1) for n, v in found.items()}

    monkeypatch.setattr(StoredTargets, "read", shrinking)
    words = [f"--targets_dir={toy.dump()}"]
    command = toy.command("fall", *words, distillation_conf=BOTH | {"variance_steps": 4}, max_epoch=12)
    with pytest.raises(UserError, match="variance of target two is 0, it was"):
        EncoderTask.main(cmd=command)
    assert not (toy.folder / "fall" / "train_summary.json").exists()


def test_codes_that_collapse(toy, monkeypatch):
    """Codes are watched as frames are; a validation is not counted."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    targets = toy.dump("rvq2", one=toy.teachers["one"])
    conf = {"teachers": {"one": 1}, "loss": "codes", "variance_steps": 1}
    method, streams, _ = build(toy, targets, conf)
    micro = micro_of(method, streams)
    method.train(False)
    method.validate(micro)
    assert float(method.watch.sums["one"].abs().sum()) == 0
    method.train()
    method.part(micro)
    assert method.after_step(Position(1, 0, 0))["variance_one"][0] > 1
    micro.batch.tensors["target_one"].fill_(3)
    method.part(micro)
    with pytest.raises(UserError, match="variance of target one is 0"):
        method.after_step(Position(1, 1, 1))
