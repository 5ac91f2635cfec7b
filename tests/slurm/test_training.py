"""Trainings on a real cluster: two processes, requeue, preemption, time limits. All end as if left alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import SLICED, SLOW_TRAIN, queue, slurm, trainings, wait_for
from tests.train.test_survival import assert_same_end, end_of, same

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sliced")]
EPOCHS = ("--max_epoch", "8", "--resume", "true")


@pytest.fixture(scope="module")
def untouched(toy_cmd, tmp_path_factory):
    """The same training, left alone."""
    folder = tmp_path_factory.mktemp("untouched") / "exp"
    command = [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_cmd(folder, *EPOCHS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def train(start, toy_cmd, tmp_path):
    """Start a training with a pause a step through the back end: the process, its experiment, its log."""

    def train(*options, pause=0.2, settings="", more=EPOCHS):
        (tmp_path / "conf").mkdir(exist_ok=True)
        (tmp_path / "conf/slurm.yaml").write_text(settings)
        folder = tmp_path / "exp it's"
        command = [sys.executable, SLOW_TRAIN, pause, *toy_cmd(folder, *more)]
        process = start(*options, folder / "train.log", *command, kind="train")
        return process, folder, folder / "train.log"

    return train


def text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _jobs() -> list[str]:
    rows = [line.split() for line in slurm("squeue", "-h", "-o", "%i %j").splitlines()]
    return [job for job, name in rows if name.startswith("train.")]


def test_two_processes_find_each_other(train, toy_cmd, tmp_path):
    """One srun with two tasks, gloo; equal to two processes of our own launcher."""
    process, folder, log = train(pause=0, settings="train: {tasks: 2, cpus: 1}")
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out + text(log)
    assert json.loads((folder / "train_summary.json").read_text())["processes"] == 2
    assert "srun --ntasks=2" not in out
    code = "from espnet_ext.train.spawn import run; import sys; "
    code += f"sys.exit(run(2, {_module(toy_cmd, tmp_path)!r}))"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as a task with one processor
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=one_thread)
    mine, other = end_of(folder), end_of(tmp_path / "ours")
    assert same(mine["modules"], other["modules"])


def _module(toy_cmd, tmp_path) -> list[str]:
    return [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "ours", *EPOCHS)]


def test_a_lost_node_and_a_time_limit(train, untouched):
    """A node that dies is taken from it; ahead of a limit it is warned. It goes on both times."""
    process, folder, log = train(pause=0.5)
    for number in range(2):
        wait_for(lambda n=number: text(log).count("# Started at") == n + 1)
        before = text(log).count(" done, ")  # epochs
        wait_for(lambda b=before: text(log).count(" done, ") > b)
        if number == 0:
            (folder / "hold").touch()  # else it may end its step, and save, before it is killed
            wait_for((folder / "held").exists)
            pids = trainings(folder)
            slurm("scontrol", "requeue", _jobs()[0])
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # Slurm kills it as well, a few seconds later
                    os.kill(pid, signal.SIGKILL)
            wait_for(lambda p=pids: not {*p} & {*trainings(folder)})
            (folder / "hold").unlink()
        else:
            slurm("scancel", "--batch", "--signal=USR1", _jobs()[0])
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out + text(log)
    assert text(log).count("# Started at") == 3
    assert text(log).count("saved at step") == 1 and text(log).count("back in the queue") == 1
    assert text(log).count("resumed at epoch") == 2
    assert_same_end(folder, untouched)
    assert not queue("train.")


def test_preempted_by_a_higher_partition(train, untouched):
    """It has time to save at the end of a step, and goes on when the others are done."""
    process, folder, log = train(pause=0.5, settings="train: {cpus: 30, mem: 6G}")
    wait_for(lambda: " done, " in text(log))
    slurm("srun", "--partition=urgent", "--cpus-per-task=31", "--mem=1000", "sleep", "1")
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out + text(log)
    assert text(log).count("# Started at") == 2 and text(log).count("saved at step") == 1
    assert text(log).count("resumed at epoch") == 1
    assert_same_end(folder, untouched)


def test_three_ends_without_progress(train):
    """A step takes longer than a run lasts: the save that never comes is noticed, and told."""
    process, folder, log = train(pause=1000)
    for number in range(3):
        wait_for(lambda n=number: text(log).count("# Started at") == n + 1)
        subprocess.run(["scontrol", "requeue", _jobs()[0]], check=True)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "warning: 1 run(s) of this job ended without a new checkpoint" in text(log)
    assert "this job ended 3 times without progress" in out and "--checkpoint_minutes" in out


def test_a_time_limit_shorter_than_the_training(sliced, toy_cmd, tmp_path):
    """Several runs of a minute each; nobody does anything."""
    other = [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "other", *SLICED)]
    subprocess.run(other, check=True, stdout=subprocess.DEVNULL)
    out, _ = sliced.communicate(timeout=1800)
    log = text(sliced.folder / "sliced.log")
    assert sliced.returncode == 0, out + log
    assert log.count("# Started at") >= 3
    assert log.count("resumed at epoch") == log.count("# Started at") - 1
    assert_same_end(sliced.folder / "exp", tmp_path / "other")
