"""The loop: resume equals no interruption, loaders change nothing, results are written whole."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.nbest import BestModels
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.trainer import Trainer

SLOW_TRAIN = Path(__file__).parents[1] / "slurm/slow_train.py"


def final_state(folder) -> dict:
    state = torch.load(folder / NAME, weights_only=True)
    state["progress"].pop("seconds")
    for row in state["history"]:
        row.pop("seconds")
    return state


def assert_same(one, other) -> None:
    """Equal to the bit, through dictionaries and lists."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.fixture(scope="module")
def uninterrupted(toy_corpus, tmp_path_factory):
    """Final state of a run that was left alone."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    c = toy_corpus
    data = [f"--{s}_data_dir={c / 'dump'}" for s in ("train", "valid")]
    stats = [f"--{s}_stats_dir={c / 'stats'}" for s in ("train", "valid")]
    cmd = [
        "--config",
        str(c / "train.yaml"),
        "--output_dir",
        str(folder),
        "--token_list",
        str(c / "tokens.txt"),
    ]
    assert ASRTask.main(cmd=cmd + data + stats) == 0
    return folder


def test_what_a_finished_training_leaves(uninterrupted):
    rows = list(csv.DictReader((uninterrupted / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    summary = json.loads((uninterrupted / "train_summary.json").read_text())
    assert summary["steps"] == int(rows[-1]["step"]) and summary["epochs"] == 3
    ranked = json.loads((uninterrupted / "nbest.json").read_text())
    by_accuracy = sorted(rows, key=lambda row: (-float(row["valid_acc"]), int(row["epoch"])))
    assert ranked["epochs"] == [int(row["epoch"]) for row in by_accuracy]


def test_training_twice_is_the_same(uninterrupted, toy_command, tmp_path):
    assert ASRTask.main(cmd=toy_command(tmp_path)) == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_loader_processes_change_nothing(uninterrupted, toy_command, tmp_path, workers):
    assert ASRTask.main(cmd=toy_command(tmp_path, "--num_workers", str(workers))) == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


class Killed(Exception):
    @classmethod
    def stop(cls, *_):
        raise cls


@pytest.mark.parametrize("dies_at", [1, 3, 5, 8, 12])
def test_resume_equals_no_interruption(uninterrupted, toy_command, tmp_path, monkeypatch, dies_at):
    """A run that saves after every step and dies after some step ends where the whole run ended."""
    step = Trainer._step
    calls = []

    def dying(self, *args):
        calls.append(None)
        if len(calls) == dies_at:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(Killed):
        ASRTask.main(cmd=toy_command(tmp_path, "--checkpoint_minutes", "0"))
    monkeypatch.setattr(Trainer, "_step", step)
    assert not (tmp_path / "train_summary.json").exists()
    # It goes on from there and does not begin again, which would end the same.
    assert (tmp_path / NAME).exists() == (dies_at > 1)
    assert dies_at == 1 or final_state(tmp_path)["progress"]["step"] == dies_at - 1
    assert ASRTask.main(cmd=toy_command(tmp_path, "--resume", "true")) == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


def test_lists_go_back_to_the_checkpoint(uninterrupted, toy_command, tmp_path, monkeypatch):
    """The newest checkpoint is damaged: at once nothing tells of the epochs behind the one before it."""
    folder = tmp_path / "exp"
    shutil.copytree(uninterrupted, folder)
    (folder / NAME).write_bytes(b"torn")
    (folder / "train_summary.json").unlink()
    monkeypatch.setattr(Trainer, "_step", Killed.stop)
    with pytest.raises(Killed):
        ASRTask.main(cmd=toy_command(folder, "--resume", "true"))
    assert [row["epoch"] for row in csv.DictReader((folder / "history.csv").open())] == ["1", "2"]
    ranked = json.loads((folder / "nbest.json").read_text())["epochs"]
    assert sorted(ranked) == [1, 2] and {p.name for p in folder.glob("*epoch.pth")} == {
        "1epoch.pth",
        "2epoch.pth",
    }


def test_longer_max_epoch_goes_on(uninterrupted, toy_command, tmp_path):
    assert ASRTask.main(cmd=toy_command(tmp_path, "--max_epoch", "2", "--scheduler", "none")) == 0
    assert (
        ASRTask.main(cmd=toy_command(tmp_path, "--max_epoch", "3", "--scheduler", "none", "--resume", "true"))
        == 0
    )
    assert [row["epoch"] for row in final_state(tmp_path)["history"]] == [1, 2, 3]


def test_a_schedule_that_goes_by_epochs(toy_corpus, toy_command, tmp_path):
    """ESPnet's `steplr` and the like count epochs, also over a resume; those that count steps are ours."""
    config = yaml.safe_load((toy_corpus / "train.yaml").read_text())
    config |= {"scheduler": "steplr", "scheduler_conf": {"step_size": 1, "gamma": 0.5}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config | {"optim_conf": {"lr": 0.008}}))
    words = ["--config", str(tmp_path / "train.yaml"), "--resume", "true", "--max_epoch"]
    for epochs in ("2", "3"):
        assert ASRTask.main(cmd=toy_command(tmp_path / "exp", *words, epochs)) == 0
    assert [row["lr"] for row in final_state(tmp_path / "exp")["history"]] == [0.008, 0.004, 0.002]


@pytest.mark.slow
def test_signal_saves_and_asks_to_run_again(uninterrupted, toy_command, tmp_path):
    """SIGTERM in the middle: exit status 75, and the next run ends where the whole run ended."""
    options = [*toy_command(tmp_path, "--resume", "true"), "--num_workers", "1"]
    (tmp_path / "hold").write_text("4")  # it must not be done before the signal comes
    process = subprocess.Popen(
        [sys.executable, SLOW_TRAIN, "0", *options],
        env=os.environ | {"PYTHONPATH": str(SLOW_TRAIN.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if "step 4/" in line:
            os.killpg(process.pid, signal.SIGTERM)  # as the driver does: loaders get it as well
            break
    (tmp_path / "hold").unlink()
    rest = process.stdout.read()
    assert process.wait() == 75 and "SIGTERM: saved at step" in rest
    assert not (tmp_path / "train_summary.json").exists()
    command = [sys.executable, "-m", "espnet_ext.bin.asr_train", *options]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


@pytest.mark.slow
def test_kill_9_at_any_moment(uninterrupted, toy_command, tmp_path):
    """Hard stops, saving after each step: every resume goes on and the end is the same."""
    extra = ("--resume", "true", "--checkpoint_minutes", "0")
    command = [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_command(tmp_path, *extra)]
    for delay in (0.0, 0.05, 0.13):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


def test_micro_batches_change_memory_not_results(toy_command, tmp_path):
    """Without dropout and masks, a step in pieces is the step at once."""
    quiet = []
    for part in ("encoder", "decoder"):
        quiet += [f"--{part}_conf", "dropout_rate=0.0", f"--{part}_conf", "positional_dropout_rate=0.0"]
    options = ["--specaug", "none", *quiet, "--max_epoch", "1", "--optim", "sgd", "--optim_conf", "lr=0.01"]
    states = []
    for budget in ("900", "300"):
        folder = tmp_path / budget
        assert ASRTask.main(cmd=toy_command(folder, *options, "--frames_per_micro_batch", budget)) == 0
        states.append(torch.load(folder / "1epoch.pth", weights_only=True))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_steps_without_finite_gradient_are_skipped_and_end_the_run(toy_command, tmp_path, monkeypatch, capfd):
    real = torch.nn.utils.clip_grad_norm_

    def broken(parameters, limit):
        return real(parameters, limit) * float("nan")

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken)
    with pytest.raises(UserError, match="4 steps in a row without a finite"):
        ASRTask.main(cmd=toy_command(tmp_path, "--max_skipped_steps", "4"))
    assert "step 1 skipped (model): loss or gradient norm is nan; utterances utt" in capfd.readouterr().out


def test_a_short_training_that_skipped_every_step_has_failed(toy_command, tmp_path, monkeypatch):
    """Fewer steps than may be skipped in a row: it ends as failed all the same, also when run again."""
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: real(*args) * float("nan"))
    for resume in ("false", "true"):
        with pytest.raises(UserError, match="none of the [0-9]+ steps had a finite loss"):
            ASRTask.main(cmd=toy_command(tmp_path, "--max_epoch", "1", "--resume", resume))
        assert not (tmp_path / "train_summary.json").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_an_utterance_that_the_model_refuses_is_named(toy_corpus, toy_command, tmp_path, split):
    """The front end sees samples without names."""
    shutil.copytree(toy_corpus / "dump", tmp_path / "dump")
    shutil.copytree(toy_corpus / "stats", tmp_path / "stats")
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.1), 16000)
    for file, text in (("dump/wav.scp", str(tmp_path / "short.wav")), ("stats/speech_shape", "100")):
        lines = (tmp_path / file).read_text().splitlines()
        lines[5] = f"{lines[5].split()[0]} {text}"
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    other = [f"--{split}_data_dir={tmp_path / 'dump'}", f"--{split}_stats_dir={tmp_path / 'stats'}"]
    message = (
        r"an utterance of 100 samples is too short .*--min_wav_duration \(stage 3\) "
        r"\([0-9]+ utterances were computed at once, utt05 is the shortest of them\)$"
    )
    with pytest.raises(UserError, match=message):
        ASRTask.main(cmd=toy_command(tmp_path / "exp", *other, "--max_epoch", "1"))


def test_options_without_effect_are_refused(toy_command, tmp_path):
    with pytest.raises(UserError, match="does not read: --batch_bins, --use_amp"):
        ASRTask.main(cmd=toy_command(tmp_path, "--batch_bins", "7", "--use_amp", "true"))
    with pytest.raises(UserError, match="--freeze_param encodr: no parameter"):
        ASRTask.main(cmd=toy_command(tmp_path, "--freeze_param", "encodr"))


NUMBERS = "num_workers checkpoint_steps checkpoint_minutes max_epoch log_interval".split()
NUMBERS += ["keep_nbest_models", "ngpu", "seed"]


@pytest.mark.parametrize("option", NUMBERS)
def test_options_below_their_least_are_refused(toy_command, tmp_path, option):
    with pytest.raises(UserError, match=rf"--{option} -1(\.0)?: expected at least [01]$"):
        ASRTask.main(cmd=toy_command(tmp_path, f"--{option}", "-1"))


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("log_interval", "0", "--log_interval 0: expected at least 1$"),
        ("keep_nbest_models", "0", "--keep_nbest_models 0: expected at least 1$"),
        ("checkpoint_minutes", "nan", "--checkpoint_minutes nan: expected at least 0$"),
        ("grad_clip", "-3", "--grad_clip -3.0: expected a number of at least 0, or -1"),
        ("grad_clip", "nan", "--grad_clip nan: expected a number of at least 0, or -1"),
        ("frontend_conf", "hop_length=0", "--frontend_conf hop_length 0: expected at least 1$"),
        ("scheduler_conf", "warmup_steps=-1", "warmupdecay: warmup_steps: expected .* at least 0, got -1"),
        ("scheduler_conf", "final=-0.1", "warmupdecay: final: expected a number of at least 0, got -0.1"),
    ],
)
def test_values_that_make_no_sense_are_refused(toy_command, tmp_path, option, value, message):
    with pytest.raises(UserError, match=message):
        ASRTask.main(cmd=toy_command(tmp_path, f"--{option}", value, "--dry_run", "true"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_epoch: 3.5", "--max_epoch 3.5: expected a whole number$"),
        ("max_epoch: true", "--max_epoch True: expected a whole number$"),
        ("seed: null", "--seed None: expected a whole number$"),
        ("grad_clip: [5]", r"--grad_clip \[5\]: expected a number"),
        ("keep_nbest_models: []", r"--keep_nbest_models: expected one number, got \[\]"),
        ("frames_per_micro_batch: ²", "--frames_per_micro_batch ²: expected a number of frames, 0 or auto"),
        ("precision: fp8", "--precision fp8: expected fp32 or bf16"),
        ("loss_norm: word", "--loss_norm word: expected utterance or token"),
        ("init_param: a.pth", "--init_param a.pth: expected a list of texts"),
        ("best_model_criterion: [3]", "--best_model_criterion 3: expected train or valid"),
        ("batch_bins: 7", "does not read: --batch_bins$"),
    ],
)
def test_what_argparse_lets_through_in_a_yaml_is_refused(toy_corpus, toy_command, tmp_path, text, message):
    """It checks the command line alone."""
    config = yaml.safe_load((toy_corpus / "train.yaml").read_text()) | yaml.safe_load(text)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    command = toy_command(tmp_path / "exp", "--dry_run", "true")
    with pytest.raises(UserError, match=message):
        ASRTask.main(cmd=["--config", str(tmp_path / "a.yaml"), *command[2:]])


def test_a_sample_rate_in_kilohertz(toy_command, tmp_path):
    """As ESPnet takes it."""
    command = toy_command(tmp_path, "--frontend_conf", "fs=16k", "--max_epoch", "1")
    assert ASRTask.main(cmd=command) == 0


@pytest.mark.parametrize("value", ["0", "-1", "inf"])
def test_without_clipping(toy_command, tmp_path, monkeypatch, value):
    """-1 as in ESPnet's configurations; given to torch it would turn the gradient round."""
    limits, real = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda group, limit: limits.append(limit) or real(group, limit)
    )
    assert ASRTask.main(cmd=toy_command(tmp_path, "--grad_clip", value, "--max_epoch", "1")) == 0
    assert set(limits) == {float("inf")}


def test_statistics_are_left_aside_by_other_normalisations(uninterrupted, toy_command, tmp_path):
    extra = ("--max_epoch", "3", "--normalize_conf", "stats_file=nowhere.npz")
    assert ASRTask.main(cmd=toy_command(tmp_path, *extra)) == 0
    assert_same(final_state(tmp_path), final_state(uninterrupted))


def test_the_loop_listens_to_the_request_of_its_command(toy_command, tmp_path, monkeypatch):
    """One that nobody has asked yet is false, and a signal that came before the loop was to be lost."""
    seen, request = [], StopRequest()
    monkeypatch.setattr(Trainer, "run", lambda self: seen.append(self.stop) or 0)
    ASRTask.main(cmd=toy_command(tmp_path), stop=request)
    assert seen[0] is request


def test_another_seed_does_not_take_over_an_experiment(uninterrupted, toy_command):
    with pytest.raises(UserError, match="was trained with seed 0, not 5"):
        ASRTask.main(cmd=toy_command(uninterrupted, "--seed", "5", "--resume", "true"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optim_conf", "lrr=0.1"], "--optim_conf: adamw: has no option lrr, did you mean lr"),
        (["--optim_conf", "lr=.inf"], "--optim_conf: adamw: lr inf: expected a finite number"),
        (["--scheduler_conf", "finale=3"], "--scheduler_conf: warmupdecay: has no option finale"),
        (
            ["--optim_conf", "differentiable=true"],
            "--optim adamw, --scheduler warmupdecay: .*; look at their",
        ),
        (["--optim_conf", "{fused: true, foreach: true}"], "--optim_conf: adamw: .*fused.*"),
    ],
)
def test_what_optimisers_and_schedules_refuse_is_told_early(toy_command, tmp_path, words, said):
    """Before the stages before a training run, and before a training that is there is put aside."""
    with pytest.raises(UserError, match=said):
        ASRTask.check_early(toy_command(tmp_path / "exp", *words))
    assert not (tmp_path / "exp").exists()


def test_a_figure_that_the_validation_does_not_have_ends_the_training_at_its_first_epoch(
    toy_command, tmp_path
):
    """It had trained to the end, and every epoch's model was removed: none was among the best."""
    with pytest.raises(
        UserError, match="--best_model_criterion valid accc max: .* no accc; it has loss, .*acc"
    ):
        ASRTask.main(cmd=toy_command(tmp_path, "--best_model_criterion", "valid,accc,max"))
    assert not (tmp_path / "train_summary.json").exists()


def test_criteria_are_held_against_all_epochs(tmp_path):
    """A method may have a figure in some epochs alone; one that no epoch has is refused, of either split."""
    rows = [{"epoch": 1, "valid_a": 1.0, "valid_b": 2.0, "train_c": 0.0}, {"epoch": 2, "valid_a": 1.0}]

    def check(*criterion):
        BestModels(tmp_path, torch.nn.Linear(1, 1), [criterion], 1).check(rows)

    check("valid", "b", "min")
    check("train", "c", "min")
    for split, there in (
        ("valid", "validation has no d; it has a, b"),
        ("train", "training has no d; it has c"),
    ):
        with pytest.raises(UserError, match=f"--best_model_criterion {split} d min: the {there}$"):
            check(split, "d", "min")


def test_another_criterion_at_a_resume_leaves_a_finished_training_alone(uninterrupted, toy_command, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "exp")
    before = (tmp_path / "exp/nbest.json").read_text()
    with pytest.raises(UserError, match="--best_model_criterion valid accc max"):
        words = ["--resume", "true", "--best_model_criterion", "valid,accc,max"]
        ASRTask.main(cmd=toy_command(tmp_path / "exp", *words))
    assert (tmp_path / "exp/nbest.json").read_text() == before


def test_a_training_whose_parameters_are_not_finite_has_failed(toy_command, tmp_path):
    words = [
        "--optim",
        "sgd",
        "--optim_conf",
        "{lr: 1.0e+38}",
        "--scheduler",
        "none",
        "--max_skipped_steps",
        "99",
    ]
    with pytest.raises(UserError, match="is not finite at step [0-9]+: the training has diverged; lower"):
        ASRTask.main(cmd=toy_command(tmp_path, *words, "--grad_clip", "0"))
    assert not (tmp_path / "train_summary.json").exists()


def test_models_of_epochs_without_a_checkpoint_are_not_trained_over(uninterrupted, toy_command, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "exp")
    for file in (tmp_path / "exp").glob("checkpoint*"):
        file.unlink()
    before = sorted(each.name for each in (tmp_path / "exp").glob("*.pth"))
    with pytest.raises(
        UserError, match="has the model of epoch 3, but no checkpoint to go on from; put it back"
    ):
        ASRTask.main(cmd=toy_command(tmp_path / "exp", "--resume", "true"))
    assert sorted(each.name for each in (tmp_path / "exp").glob("*.pth")) == before
    for epoch in ("2", "3"):
        (tmp_path / f"exp/{epoch}epoch.pth").unlink(missing_ok=True)
    with pytest.raises(UserError, match="has the model of epoch 1, but no checkpoint"):  # it is finished
        ASRTask.main(cmd=toy_command(tmp_path / "exp", "--resume", "true"))


@pytest.mark.parametrize("name", ["token_list", "bpemodel", "noise_scp", "rir_scp"])
def test_a_file_that_is_not_there_is_named_with_its_option(toy_command, tmp_path, name):
    """A tokenizer's was blamed on the first recording."""
    with pytest.raises(UserError, match=f"^--{name} nowhere: no such file$"):
        ASRTask.main(cmd=toy_command(tmp_path / "exp", f"--{name}", "nowhere"))
    assert not (tmp_path / "exp").exists()
