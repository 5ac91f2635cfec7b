"""Fake preemption: what tests/slurm shows on a cluster, on this machine alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_ext.errors import UserError
from espnet_ext.launch.preempt import Preemption
from espnet_ext.processes import start_of
from tests.recipes.driver.conftest import real_template, recipe, started  # noqa: F401  fixtures
from tests.train.conftest import toy_cmd, toy_corpus  # noqa: F401  fixtures
from tests.train.test_survival import assert_same_end, end_of

SLOW_TRAIN = Path(__file__).parents[1] / "slurm/slow_train.py"
EPOCHS = ("--max_epoch", "8", "--resume", "true")


@pytest.fixture
def run(repo_root, tmp_path):
    """Function: (what preempts, words...) → exit status, output, text of the log x.log."""

    def run(preempt, *words):
        environment = {**os.environ, "PYTHONPATH": str(repo_root), "ESPNET_EXT_PREEMPT": preempt}
        command = [sys.executable, "-m", "espnet_ext.bin.run_local", "--num_threads", "1", "x.log"]
        done = subprocess.run(
            [*command, *map(str, words)],
            cwd=tmp_path,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        return done.returncode, done.stdout + done.stderr, (tmp_path / "x.log").read_text()

    return run


@pytest.mark.parametrize("how", ["USR1", "TERM", "KILL"])
def test_a_job_that_wants_to_go_on_runs_again(run, tmp_path, how):
    """It counts its runs in a file, which is also its checkpoint; the third one ends it."""
    script = (
        'trap "exit 75" USR1 TERM; (cat exp/checkpoint.pth; echo run) >new; mv new exp/checkpoint.pth; '
        "[ $(wc -l <exp/checkpoint.pth) = 3 ] && exit 0; while true; do sleep 0.05; done"
    )
    (tmp_path / "exp").mkdir()
    code, output, log = run(f"save {how} {how}", "sh", "-c", script, "--output_dir", "exp")
    assert code == 0, output + log
    assert log.count("# Started at") == log.count("# Ended (code") == 3
    assert log.count("# Ended (code 0)") == 1


def test_three_ends_without_progress(run):
    code, output, log = run("1", "sh", "-c", 'trap "exit 75" TERM; while true; do sleep 0.05; done')
    assert code == 75
    assert log.count("# Started at") == 3 and "ended 3 times without progress" in log
    assert "--checkpoint_minutes" in log


def test_a_failure_is_no_preemption(run):
    code, _, log = run("1000 KILL USR1", "sh", "-c", "sleep 0.1; exit 3")
    assert code == 3 and log.count("# Started at") == 1
    code, _, log = run("1", "sh", "-c", 'trap "exit 4" TERM; while true; do sleep 0.05; done')
    assert code == 4 and log.count("# Started at") == 1


@pytest.mark.parametrize("code", [0, 3])
def test_an_array(tmp_path, repo_root, code):
    """Each of its jobs goes on by itself; a failure is its own, after as many runs."""
    script = (
        'trap "exit 75" USR1; mkdir -p exp/$0; echo run >>exp/$0/checkpoint.pth; '
        "[ $(wc -l <exp/$0/checkpoint.pth) = 2 ] && exit $1; while true; do sleep 0.05; done"
    )
    command = [sys.executable, "-m", "espnet_ext.bin.run_local", "--max_jobs_run", "3", "JOB=1:3"]
    command += ["x.JOB.log", "sh", "-c", script, "JOB", str(code), "--output_dir", "exp/JOB"]
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "ESPNET_EXT_PREEMPT": "save USR1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    logs = [(tmp_path / f"x.{number}.log").read_text() for number in (1, 2, 3)]
    assert done.returncode == code, done.stderr
    ends = f"# Ended (code {code})"
    twice = [log.count("# Ended (code 75)") == log.count(ends) == 1 for log in logs]
    assert all(twice) if code == 0 else any(twice) and "failed with status 3" in done.stderr


def test_cancel(recipe, started):  # noqa: F811
    """Ctrl-C while its job is being interrupted: nothing is left, and the same command goes on."""
    wait = "echo $$ >>c/checkpoint.pth; while [ ! -e go ]; do sleep 0.05; done"
    script = f'mkdir -p c; trap "exit 75" USR1; {wait}; printf "%s\\n" "$2" >"$1"'
    (recipe.folder / "local/one.sh").write_text(f"#!/usr/bin/env bash\n{script}\n")
    stage = recipe.template / "stages/01_one.sh"
    stage.write_text(stage.read_text().replace('"$@"', '"$@" --output_dir c'))
    process = started(ESPNET_EXT_PREEMPT="save" + 99 * " USR1", start_new_session=True)
    checkpoint, end = recipe.folder / "c/checkpoint.pth", time.monotonic() + 300
    while not checkpoint.exists() or len(checkpoint.read_text().split()) < 3:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(300) != 0
    while any(start_of(int(pid)) for pid in checkpoint.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert recipe.states()["one"] in ("interrupted", "preempted")  # both were under way
    (recipe.folder / "go").touch()
    recipe()
    assert (recipe.folder / "exp/3.txt").read_text() == "hello\n"


def test_mistakes(monkeypatch):
    for wrong in ("soon", "-1", "nan", "3 HUP", "save HUP"):
        monkeypatch.setenv("ESPNET_EXT_PREEMPT", wrong)
        with pytest.raises(UserError, match="expected seconds.* of USR1, TERM, KILL"):
            Preemption.from_environment()


@pytest.mark.slow
def test_a_training_in_slices_ends_as_if_left_alone(run, toy_cmd, tmp_path):  # noqa: F811
    """Interrupted in turn ahead of a limit (it saves) and without time to save, to the end."""
    begin = time.monotonic()
    other = [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "other", *EPOCHS)]
    subprocess.run(other, check=True, stdout=subprocess.DEVNULL)
    # Longer than a start takes on this machine now, and pauses that make three slices of it.
    slice = 2.5 * (time.monotonic() - begin) + 1.0
    pause = 2.2 * slice / end_of(tmp_path / "other")["progress"]["step"]
    slow = [sys.executable, SLOW_TRAIN, pause, *toy_cmd(tmp_path / "exp", *EPOCHS)]
    code, output, log = run(f"{slice} USR1 KILL", *slow)
    assert code == 0, output + log
    assert log.count("# Started at") >= 3 and "saved at step" in log
    assert log.count("resumed at epoch") == log.count("# Started at") - 1
    assert_same_end(tmp_path / "exp", tmp_path / "other")
