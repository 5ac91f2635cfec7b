"""The pseudo-labelling control: its data, its special case, and its batches of each kind."""

import argparse
import json

import pytest
import torch

from espnet_ext.asr.task import ASRTask
from espnet_ext.bilevel.pseudo import frame_counter, write_pseudo_set
from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.errors import UserError
from espnet_ext.train.method import Position

ROUNDS = {"warm_epochs": 0, "gamma_initial": 1.0, "gamma_maximum": 1.0}


@pytest.fixture
def hypotheses(corpus, tmp_path):
    """Hypotheses of the unlabelled set, one of them empty."""
    path = tmp_path / "hypotheses"
    lines = [f"unlabelled{number:02d} {'abcd'[number % 4] * 3}" for number in range(20)]
    lines[7] = "unlabelled07"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_hypotheses_become_transcripts(corpus, hypotheses, tmp_path):
    unlabelled = (corpus / "dump/unlabelled", corpus / "stats/unlabelled")
    out = tmp_path / "pseudo"
    counts = write_pseudo_set(*unlabelled, hypotheses, out, lambda words: list(range(len(words))), int)
    assert counts == {"kept": 19, "empty": 1, "long": 0}
    texts = dict(line.split() for line in (out / "dump/text").read_text().splitlines())
    assert "unlabelled07" not in texts and texts["unlabelled05"] == "bbb"
    for name in ("dump/wav.scp", "stats/speech_shape", "stats/text_shape"):
        assert [line.split()[0] for line in (out / name).read_text().splitlines()] == list(texts)
    assert (out / "stats/text_shape").read_text().splitlines()[0] == "unlabelled00 3"


def test_hypotheses_that_ctc_cannot_align_are_left_out(corpus, hypotheses, tmp_path):
    """A decoder that repeats itself writes more labels than there are frames: its loss would be infinite."""
    lines = hypotheses.read_text().splitlines()
    lines[3] = "unlabelled03 aaaa"
    hypotheses.write_text("\n".join(lines) + "\n")
    unlabelled = (corpus / "dump/unlabelled", corpus / "stats/unlabelled")
    # Equal neighbours need a blank between them: 7 frames for aaaa, 5 for the others.
    counts = write_pseudo_set(*unlabelled, hypotheses, tmp_path / "pseudo", list, lambda length: 6)
    assert counts == {"kept": 18, "empty": 1, "long": 1}
    assert "unlabelled03" not in (tmp_path / "pseudo/dump/text").read_text()


def test_frames_of_a_hypothesis_are_those_of_the_encoder():
    """A second at 10 ms makes 101 frames; conv2d leaves 24 of them. A transducer's are not thinned out."""
    conv2d = {"encoder_conf": {"input_layer": "conv2d"}, "frontend_conf": {"n_fft": 512, "hop_length": 160}}
    for changes, length, expected in (
        ({}, 16000, 24),
        ({"encoder_conf": {}}, 16000, 24),
        ({"encoder_conf": {"input_layer": "conv2d2"}}, 16000, 48),
        ({"encoder_conf": {"body_conf": []}}, 16000, 101),
        ({"input_size": 80}, 101, 24),
    ):
        args = argparse.Namespace(**{"input_size": None, **conv2d, **changes})
        assert frame_counter(args)(length) == expected, changes


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["unlabelled00 a"], "no hypothesis for 19 of 20 utterances of .*, the first is 'unlabelled01'"),
        ([f"unlabelled{n:02d}" for n in range(20)], "every hypothesis is empty or too long"),
    ],
)
def test_hypotheses_that_do_not_fit(corpus, tmp_path, lines, message):
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    unlabelled = (corpus / "dump/unlabelled", corpus / "stats/unlabelled")
    with pytest.raises(UserError, match=message):
        write_pseudo_set(*unlabelled, tmp_path / "text", tmp_path / "pseudo", list, int)


def test_weight_zero_is_supervised_training(training, bilevel_conf, hypotheses, equal):
    """To the bit, while the loss on hypotheses is computed."""
    control = training(ASRTask, "asr")
    options = bilevel_conf(warm_epochs=0, final_epochs=0, explore_steps=0, gamma_increment=0.0)
    run = training(BilevelTask, "bilevel", "--pseudo_text", hypotheses, *options)
    for each in (control, run):
        each.advance(10)
    assert equal(dict(control.model.state_dict()), dict(run.model.state_dict()))
    assert all("pseudo_loss" in figures for figures in run.figures)


def test_a_joint_step_adds_the_gradients_of_both(training, bilevel_conf, hypotheses):
    options = bilevel_conf(final_epochs=0, explore_steps=0, **ROUNDS)
    run = training(BilevelTask, "bilevel", "--pseudo_text", hypotheses, *options)
    (turn,) = run.method.turns(Position(1, 0, 0))
    gradients = []
    for part in turn.parts:
        micro = run.micro(part.source)
        assert micro.batch.tensors["text"].size(0) == len(micro.batch.utterances)
        run.model.zero_grad()
        micro.seed(part.key)
        part.loss(micro).loss.backward()
        gradients.append([p.grad.clone() for p in run.model.parameters()])
    for own, pseudo in zip(*gradients, strict=True):
        assert own.abs().max() > 0 and pseudo.abs().max() > 0 and not torch.equal(own, pseudo)


def test_gamma_weighs_hypotheses_in_joint_steps_alone(training, bilevel_conf, hypotheses):
    constant = {"gamma_initial": 0.25, "gamma_maximum": 0.25}
    options = bilevel_conf(warm_epochs=0, final_epochs=0, explore_steps=1, **constant)
    run = training(BilevelTask, "bilevel", "--pseudo_text", hypotheses, *options)
    (explore,), (joint,) = (run.method.turns(Position(1, step, step)) for step in (0, 1))
    micro = run.micro("unlabelled")
    losses = []
    for part in (explore.parts[0], joint.parts[1]):
        micro.seed(part.key)
        losses.append(part.loss(micro).loss.item())
    assert losses[1] == 0.25 * losses[0] > 0


def test_the_same_batches_of_each_kind_as_the_method(command, tmp_path, bilevel_conf, hypotheses):
    summaries = []
    for name, options in (("bilevel", []), ("pseudo", ["--pseudo_text", hypotheses])):
        cmd = command("bilevel", tmp_path / name, *bilevel_conf(**ROUNDS), *options)
        assert BilevelTask.main(cmd=cmd) == 0
        summaries.append(json.loads((tmp_path / name / "train_summary.json").read_text()))
    for kind in ("labelled_batches", "unlabelled_batches", "steps_of_each_kind"):
        assert summaries[0][kind] == summaries[1][kind]


def test_the_schedule_covers_both_kinds_of_steps(training, bilevel_conf, hypotheses):
    """One optimiser makes exploration and joint steps: its rate reaches its end with the last of them."""
    options = [*bilevel_conf(final_epochs=1, **ROUNDS), "--scheduler_conf", "final=0.1"]
    run = training(BilevelTask, "bilevel", "--pseudo_text", hypotheses, *options)
    steps = [run.method.epoch_steps(epoch, run.streams) for epoch in range(1, 4)]
    upper = run.method.updaters["upper"]
    run.advance(sum(steps) - 1)
    assert 0.1 < upper.lr / 0.002 < 0.2
    run.advance(1)
    assert upper.scheduler.last_epoch == sum(steps)


def test_no_warm_start_without_an_unsupervised_loss(command, tmp_path, hypotheses):
    with pytest.raises(UserError, match="--pseudo_text: hypotheses need no warm start"):
        BilevelTask.main(cmd=command("bilevel", tmp_path, "--pseudo_text", hypotheses))
