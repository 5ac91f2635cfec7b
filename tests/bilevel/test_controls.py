"""Every control reads what controls.yaml says it has in common with the method."""

from collections import Counter

import numpy as np
import pytest
import yaml

from espnet_ext.bilevel.options import BilevelOptions
from espnet_ext.bilevel.phases import FINAL, JOINT
from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.recipe.systems import load_systems
from espnet_ext.train.method import Position
from espnet_ext.train.streams import Stream

SYSTEMS = load_systems()
PAIRS = [pair for pair in SYSTEMS.pairs if pair.system == "bilevel"]


class Lengths:
    """Data of which only the lengths are looked at: 460 and 1,400 sentences of two to five seconds."""

    def __init__(self, count: int, seed: int):
        seconds = np.random.default_rng(seed).uniform(2, 5, count)
        self.lengths = {f"u{number}": int(16000 * each) for number, each in enumerate(seconds)}
        self.labels = {}


@pytest.fixture
def read(repo_root):
    """Function: system → what a training of egs2/synth with its options reads."""

    def count(name: str) -> dict[str, float]:
        words = SYSTEMS.find(name).options.get("finetune_args", "").split()
        config = repo_root / "egs2/synth/asr1/conf/finetune_bilevel.yaml"
        args = BilevelTask.get_parser().parse_args(
            ["--config", str(config), "--output_dir", "-", "--token_list", "-", *words]
        )
        phases = BilevelOptions.from_conf(args.bilevel_conf).phases(args.max_epoch)
        streams = {
            "labelled": Stream("labelled", Lengths(460, 1), 192, args.frames_per_step),
            "unlabelled": Stream("unlabelled", Lengths(1400, 2), 192, args.unlabelled_frames_per_step),
        }
        found = Counter()
        for epoch in range(1, args.max_epoch + 1):
            steps = phases.steps(epoch, streams["labelled"].steps(phases.labelled_pass(epoch)))
            for step in range(steps):
                kind = phases.kind(Position(epoch, step, 0))
                for stream in ["labelled"] * (kind in (JOINT, FINAL)) + ["unlabelled"] * (kind != FINAL):
                    frames = take(streams[stream])
                    found[f"{stream}_batches"] += 1
                    found[f"{stream}_hours"] += frames * 192 / 16000 / 3600
                    found["encoder_frames"] += frames
                found["steps"] += 1
        return found

    def take(stream: Stream) -> int:
        """Frames of the stream's next step, without reading it."""
        at = stream.position
        plan = stream.plan(at["pass"])
        frames = stream.totals(plan[at["step"]].utterances).frames
        last = at["step"] + 1 == len(plan)
        stream.position = {"pass": at["pass"] + last, "step": 0 if last else at["step"] + 1}
        return frames

    return count


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.control)
def test_matched_counts(read, pair):
    """To within 1 %, as MATCHES promises; the totals are what train_summary.json counts."""
    method, control = read(pair.system), read(pair.control)
    assert pair.matched
    for what in pair.matched:
        assert control[what] == pytest.approx(method[what], rel=0.01), what


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.control)
def test_their_numbers_are_for_the_configuration_of_synth(repo_root, pair):
    """A control that does not say for which numbers of epochs it was written would be another elsewhere."""
    config = yaml.safe_load((repo_root / "egs2/synth/asr1/conf/finetune_bilevel.yaml").read_text())
    control = SYSTEMS.find(pair.control)
    assert control.other_than_assumed(config) == []
    words = control.options.get("finetune_args", "")
    if "epoch" in words or "frames" in words:
        assert control.other_than_assumed({**config, "max_epoch": 99, "unlabelled_frames_per_step": 9})


def test_there_are_the_papers_rivals():
    assert {pair.control.removeprefix("bilevel_") for pair in PAIRS} >= {
        "supervised_only",
        "pretrain_finetune",
        "constant_gamma",
        "multi_task",
        "pseudo_labels",
    }
    assert SYSTEMS.find("bilevel_pseudo_labels").options["pseudo_labels"] == "joint"
