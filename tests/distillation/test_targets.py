"""Targets of several teachers whose frames are of different length, and stores that do not serve."""

import numpy as np
import pytest
import torch

from espnet_ext.data.embeddings import EmbeddingStore
from espnet_ext.distillation.combine import Combiner
from espnet_ext.distillation.dump import Dump, DumpOptions
from espnet_ext.distillation.targets import LiveTargets
from espnet_ext.errors import UserError
from tests.distillation.conftest import NoiseTeacher
from tests.distillation.stage1_toy import build, micro_of

SHIFTS = {"one": 320, "two": 640}


def teachers() -> dict[str, NoiseTeacher]:
    """Frames of 20 ms and of 40 ms; the student's are of 40 ms."""
    return {"one": NoiseTeacher(6, 1, shift=320), "two": NoiseTeacher(4, 2, 30.0, shift=640)}


@pytest.mark.parametrize("how", ["mean", "concat"])
def test_frames_of_20_and_40_ms_side_by_side(toy, how):
    """`rule: concat`: at each of the student's frames what both teachers hear in it, stored and live."""
    folder = toy.folder / "targets"
    for name, teacher in teachers().items():
        options = DumpOptions(640, 16000, reduce=how if name == "one" else "mean")
        Dump(name, teacher, [toy.data], [], folder / name, options).run()
    conf = {"teachers": {"one": 1, "two": 1}, "rule": "concat"}
    method, streams, _ = build(toy, folder, conf)
    size = 4 + (12 if how == "concat" else 6)
    assert dict(method.targets.sizes) == {"all": size}
    micro = micro_of(method, streams)
    (stored,) = method.targets.batch(micro.batch).values()
    summaries = {name: EmbeddingStore(folder / name).summary() for name in SHIFTS}
    for row, utterance in enumerate(micro.batch.utterances):
        samples, sides = toy.audio[utterance], []
        for name, teacher in teachers().items():
            (frames,) = teacher.embed([samples])
            if name == "one":
                pairs = frames[: len(frames) // 2 * 2].view(-1, 2, 6)
                frames = pairs.mean(1) if how == "mean" else pairs.flatten(1)
            spread = np.sqrt(np.diag(summaries[name]["covariance"]))
            sides.append((frames.numpy() - summaries[name]["mean"]) / spread)
        length = min(map(len, sides))
        assert int(stored.lengths[row]) == length and len(sides[1]) - length in (0, 1)
        expected = np.concatenate([side[:length] for side in sides], axis=1)
        # fp16 and 16 bits a sample stand between them.
        assert np.abs(stored.values[row, :length].numpy() - expected).max() < 0.01

    combiner = Combiner("concat", {"one": 0.5, "two": 0.5}, summaries)
    each = {"one": 2, "two": 1}, {"one": how, "two": "mean"}
    live, data = LiveTargets(teachers(), *each, combiner, 16000), streams["labelled"].data
    live.attach(data, str(toy.data))
    order = [tuple(micro.batch.utterances)]
    (heard,) = live.batch(next(data.batches(order, 0))).values()
    assert torch.equal(heard.lengths, stored.lengths)
    for row, length in enumerate(heard.lengths.tolist()):
        torch.testing.assert_close(
            heard.values[row, :length], stored.values[row, :length], rtol=1e-2, atol=1e-2
        )


def test_frames_that_are_no_part_of_the_students(toy):
    """Teachers of 20 and of 30 ms: the second is named before anything is computed."""
    with pytest.raises(
        UserError, match="teacher two: a frame every 480 samples, the student's are 640 apart"
    ):
        Dump("two", NoiseTeacher(4, 2, shift=480), [toy.data], [], toy.folder / "x", DumpOptions(640, 16000))
    assert not (toy.folder / "x").exists()


def test_codes_need_codebooks(toy):
    conf = {"teachers": {"one": 1}, "loss": "codes"}
    with pytest.raises(UserError, match="targets/one: is stored as fp16; loss: codes needs rvq"):
        build(toy, toy.dump(), conf)


def test_an_utterance_that_is_absent(toy):
    """Its shard was removed: the store, the number and the first of those it lacks are named."""
    targets = toy.dump()
    store = EmbeddingStore(targets / "one")
    lost = next(u for u, key in store.keys_of(toy.data).items() if key in store)
    shard = store.index[store.keys_of(toy.data)[lost]][0]
    count = sum(store.index[key][0] == shard for key in store.keys_of(toy.data).values())
    for file in (targets / "one" / "shards" / shard).iterdir():
        file.unlink()
    (targets / "one" / "shards" / shard).rmdir()
    message = f"one: has no embeddings of {count} of 12 utterances of {toy.data}, the first is '{lost}'"
    with pytest.raises(UserError, match=message):
        build(toy, targets, {"teachers": {"one": 1}})
