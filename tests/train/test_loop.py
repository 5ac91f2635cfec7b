"""What the loop counts, says, validates by and refuses, each seen from outside of it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.train import checkpoint, trainer
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.trainer import RETRY_SAVE, Trainer, TrainerOptions
from espnet_ext.train.world import World

#: Steps of an epoch of the toy corpus.
STEPS = 4


#: Code that kills the loader processes at a moment of the training.
KILLS = {
    moment: f"""
import multiprocessing, os, signal
from espnet_ext.train import ahead
ahead.PATIENCE = 0.5
from {module} import {name}
real = {name}.{method}
def killing(self, *args):
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    return real(self, *args)
{name}.{method} = killing
"""
    for moment, module, name, method in (
        ("step", "espnet_ext.train.trainer", "Trainer", "_step"),
        ("validation", "espnet_ext.asr.method", "JointMethod", "validate"),
    )
}


class Killed(Exception):
    pass


def progress_of(folder) -> dict:
    return torch.load(folder / NAME, weights_only=True)["progress"]


def test_skipped_steps_count_in_a_row_alone(toy_cmd, tmp_path, monkeypatch, capfd):
    """Every other step is skipped: never two in a row, and the summary says how many in all."""
    real, calls = ASRModel.joint_loss, []

    def broken(*args):
        if torch.is_grad_enabled():
            calls.append(None)
        return real(*args) * (float("inf") if len(calls) % 2 else 1.0)

    monkeypatch.setattr(ASRModel, "joint_loss", broken)
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_skipped_steps", "2")) == 0
    summary = json.loads((tmp_path / "train_summary.json").read_text())
    assert summary["skipped_steps"] == len(calls[::2]) == capfd.readouterr().out.count("skipped (model)")
    assert summary["steps"] == len(calls)


def test_split_micro_batches_are_reported_and_counted(toy_cmd, tmp_path, monkeypatch, capfd):
    real = JointMethod.joint_part
    sizes = []

    def small(self, micro):
        sizes.append(len(micro.batch.utterances))
        if self.model.training and sizes[-1] > 4:
            raise torch.OutOfMemoryError("full")
        return real(self, micro)

    monkeypatch.setattr(JointMethod, "joint_part", small)
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1")) == 0
    splits = capfd.readouterr().out.count("did not fit the memory and is computed in halves")
    summary = json.loads((tmp_path / "train_summary.json").read_text())
    assert splits and summary["split_micro_batches"] == splits


def test_validation_is_without_dropout(toy_cmd, tmp_path, monkeypatch):
    real, seen = JointMethod.validate, set()

    def validate(self, micro):
        seen.add((self.model.training, torch.is_grad_enabled(), micro.keys))
        return real(self, micro)

    monkeypatch.setattr(JointMethod, "validate", validate)
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "2")) == 0
    assert seen == {(False, False, None)}


@pytest.mark.parametrize("seconds", [60.0, 0.01])
def test_the_line_of_progress(toy_cmd, tmp_path, monkeypatch, capfd, seconds):
    """Hours of speech an hour and the time that is left, by a clock that ticks once a step."""
    clock, heard, step = [0.0], [], Trainer._step

    def ticking(self):
        step(self)
        clock[0] += seconds
        heard.append(self._recent_since[1] / 16000)

    monkeypatch.setattr(Trainer, "_step", ticking)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "2", "--checkpoint_minutes", "1e9")) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if " left " in line]
    assert len(lines) == len(heard) == 2 * STEPS
    for number, (line, audio) in enumerate(zip(lines, heard, strict=True), 1):
        assert f"epoch {(number - 1) // STEPS + 1}/2 step {(number - 1) % STEPS + 1}/{STEPS} loss=" in line
        speed, left = re.search(r" lr=\S+ (\d+) h/h left (\S+) min", line).groups()
        assert float(speed) == pytest.approx(audio / seconds, abs=0.51)
        assert float(left) == pytest.approx((2 * STEPS - number) * seconds / 60, abs=0.051)


def test_a_signal_at_an_epochs_end_ends_the_training_there(toy_cmd, tmp_path, monkeypatch, capfd):
    real = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: os.kill(os.getpid(), signal.SIGTERM) or real(self))
    assert ASRTask.main(cmd=toy_cmd(tmp_path)) == 75
    assert f"SIGTERM: saved at step {STEPS};" in capfd.readouterr().out
    assert progress_of(tmp_path)["epoch"] == 2 and progress_of(tmp_path)["step_in_epoch"] == 0
    assert not (tmp_path / "train_summary.json").exists()


def test_a_signal_at_the_last_epochs_end_changes_nothing(toy_cmd, tmp_path, monkeypatch):
    real = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: os.kill(os.getpid(), signal.SIGTERM) or real(self))
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1")) == 0
    assert (tmp_path / "train_summary.json").exists()


def test_a_signal_before_the_first_step_is_heard(toy_cmd, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Trainer, "_step", None)  # no step is made
    stop = StopRequest()
    stop.name = "SIGUSR1"
    assert ASRTask.main(cmd=toy_cmd(tmp_path), stop=stop) == 75
    assert "SIGUSR1 before the first step; run the same command again" in capfd.readouterr().out


def test_a_save_that_failed_is_tried_again_after_a_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    loop = Trainer.__new__(Trainer)
    loop.options, loop.world = TrainerOptions(max_epoch=1, checkpoint_minutes=10.0), World()
    loop._last_save, due = 0.0, {}

    def full():
        loop._last_save = clock[0]
        raise OSError(28, "No space left on device")

    loop._save = full
    clock[0] = 601.0
    assert loop._save_is_due()
    loop._try_to_save()
    for after in (1.0, RETRY_SAVE - 1, RETRY_SAVE + 1):
        clock[0] = 601.0 + after
        due[after] = loop._save_is_due()
    assert list(due.values()) == [False, False, True]


@pytest.fixture
def better_every_epoch(monkeypatch):
    """The accuracy of an epoch is its number."""
    real = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: real(self) | {"acc": float(self.progress.epoch)})


@pytest.mark.usefixtures("better_every_epoch")
def test_models_stay_until_the_checkpoint_that_does_without_them(toy_cmd, tmp_path, monkeypatch):
    """Ended in the save of the third epoch: the two checkpoints that there are know epochs 1 and 2."""
    real = checkpoint.save

    def save(state, folder):
        if state["progress"]["epoch"] == 4:
            raise Killed
        return real(state, folder)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Killed):
        ASRTask.main(cmd=toy_cmd(tmp_path, "--keep_nbest_models", "1"))
    assert {path.name for path in tmp_path.glob("*epoch.pth")} == {f"{n}epoch.pth" for n in (1, 2, 3)}


@pytest.mark.usefixtures("better_every_epoch")
def test_models_stay_for_the_checkpoint_before_also_after_a_resume(toy_cmd, tmp_path):
    for epochs in ("2", "3"):
        options = ("--keep_nbest_models", "1", "--max_epoch", epochs, "--resume", "true")
        assert ASRTask.main(cmd=toy_cmd(tmp_path, *options)) == 0
    assert {path.name for path in tmp_path.glob("*epoch.pth")} == {"2epoch.pth", "3epoch.pth"}


def test_a_training_that_begins_anew_leaves_nothing_of_the_one_before(toy_cmd, tmp_path, monkeypatch):
    """Killed in its first step, it neither looks finished nor can be gone on with."""
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1")) == 0
    (tmp_path / "bestepoch.pth").write_text("somebody's own")

    def killed(self):
        raise Killed

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(Killed):
        ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1"))
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"config.yaml", "bestepoch.pth"}


def test_a_longer_training_is_not_finished_while_it_goes_on(toy_cmd, tmp_path, monkeypatch):
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "2")) == 0
    summary = (tmp_path / "train_summary.json").read_bytes()
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1", "--resume", "true")) == 0
    assert (tmp_path / "train_summary.json").read_bytes() == summary, "it has two epochs all the same"

    def killed(self):
        raise Killed

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(Killed):
        ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "3", "--resume", "true"))
    assert not (tmp_path / "train_summary.json").exists()


@pytest.fixture
def trained(toy_cmd, tmp_path):
    """Function: (extra options) → go on in the folder of a training of one epoch."""
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1")) == 0

    def go_on(*extra: str) -> int:
        return ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "2", "--resume", "true", *extra))

    return go_on


def test_a_model_of_another_size_is_told_by_its_tensors(trained):
    with pytest.raises(UserError, match=r"\d+ tensors of .* model .*ctc_lo\.weight \(\(8, 16\) against"):
        trained("--encoder_conf", "output_size=32")
    with pytest.raises(UserError, match=r"encoder\.encoders\.1\.\S+ \(missing\)"):
        trained("--encoder_conf", "num_blocks=2")


def test_another_optimiser_is_refused(trained):
    with pytest.raises(UserError, match="optimiser of model: AdamW cannot go on as Adam; put back"):
        trained("--optim", "adam")


@pytest.mark.parametrize("part", ["modules", "updaters", "streams"])
def test_a_checkpoint_with_other_parts_is_refused(trained, tmp_path, part):
    state = checkpoint.load(tmp_path)
    state[part]["more"] = next(iter(state[part].values()))
    checkpoint.save(state, tmp_path)
    with pytest.raises(
        UserError, match=f"has the {part} .*more.*, this training (model|labelled); use another"
    ):
        trained()


def test_a_file_that_no_training_wrote_is_refused(trained, tmp_path):
    checkpoint.save({"modules": {}}, tmp_path)
    with pytest.raises(UserError, match="no training wrote its checkpoint, it lacks updaters, streams,"):
        trained()


def test_data_that_became_less_is_told(trained, tmp_path, capfd):
    """Where it stands beyond the end of an epoch is an error, and other data a warning."""
    state = checkpoint.load(tmp_path)
    state["run"]["data"]["labelled"] = "25 utterances of 2300 frames"
    checkpoint.save(state, tmp_path)
    assert trained("--max_epoch", "1") == 0
    said = capfd.readouterr().out
    assert "warning: not as before the interruption: data {'labelled': '25 utterances of 2300 f" in said
    state["streams"]["labelled"] = {"pass": 2, "step": STEPS}
    checkpoint.save(state, tmp_path)
    with pytest.raises(UserError, match=f"behind step {STEPS} of the labelled data, which has {STEPS}:"):
        trained()


def test_time_and_rates_are_those_of_all_runs(trained, tmp_path):
    """Seconds go on where they were; tensorboard has every step, the CSV the learning rate of each epoch."""
    state = checkpoint.load(tmp_path)
    state["progress"]["seconds"] = 1000.0
    checkpoint.save(state, tmp_path)
    assert trained("--use_tensorboard", "true") == 0
    assert 1000 < json.loads((tmp_path / "train_summary.json").read_text())["seconds"] < 1100
    first, second = csv.DictReader((tmp_path / "history.csv").open())
    assert float(first["seconds"]) < 1000 < float(second["seconds"])
    assert float(first["lr"]) > 0 and float(second["lr"]) > 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [STEPS + n for n in range(1, STEPS + 1)]
    assert [event.step for event in events.Scalars("step/lr")] == [STEPS + n for n in range(1, STEPS + 1)]
    assert [event.step for event in events.Scalars("valid_acc")] == [2 * STEPS]


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_a_loader_that_was_killed_is_an_error_of_one_line(toy_cmd, tmp_path, moment):
    code = (
        KILLS[moment] + "import sys; from espnet_ext.bin.asr_train import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *toy_cmd(tmp_path, "--num_workers", "1")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    # Where a second loader dies while the first one's death is being told, torch's word on it stands before.
    last = done.stderr.splitlines()[-1]
    error = re.escape("error: DataLoader worker (pid")
    assert re.match(f"{error}.*: a loader process was ended from outside.* --resume true", last), done.stderr
