"""--submit, --status and --cancel of a toy recipe, in a path with a space and a quote."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from espnet_ext.launch.submitter import Submitter
from tests.recipes.driver.conftest import real_template, recipe  # noqa: F401  fixtures
from tests.slurm.conftest import queue, wait_for

SUBMIT = """
slurm:
    title: Slurm
    options:
        submit: {type: bool, default: false, help: hand over}
        cancel: {type: bool, default: false, help: end}
        preflight: {choices: ["true", "false", only], default: "false", help: try}
        ngpu: {type: int, default: 0, help: GPUs}
        inference_nj: {type: int, default: 1, help: jobs}
"""


@pytest.fixture
def toy(recipe):  # noqa: F811
    """The toy recipe with the options of Slurm; its jobs end with the test."""
    options = recipe.template / "conf/options.yaml"
    what, derived, rest = options.read_text().partition("derived:\n")
    options.write_text(what + SUBMIT.lstrip() + derived + rest)
    recipe.environment["OMP_NUM_THREADS"] = "1"
    yield recipe
    recipe("--cancel")


def job_of(toy, stage: str) -> list[str]:
    """Words of a stage's line in --status."""
    lines = toy("--status").splitlines()
    return next(line for line in lines if line.split()[1:2] == [stage]).split()


def instead(toy, **scripts) -> str:
    """A PATH on which Slurm's programs run a shell script first."""
    folder = toy.folder / "bin"
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f'#!/bin/sh\n{script}\nexec {shutil.which(name)} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:{toy.environment['PATH']}"


def test_stages_run_one_after_the_other_and_are_shown(toy):
    """Nobody waits for them; what is done is not submitted again."""
    toy.hook("while [ ! -e go ]; do sleep 0.2; done")
    printed = toy("--submit", "--words", "$(touch evil) 'a b'")
    assert [line.split(":")[0] for line in printed.splitlines()[:3]] == [
        "stage 1 one", "stage 2 two", "stage 3 three",
    ]  # fmt: skip
    wait_for(lambda: "running" in job_of(toy, "two"))
    table = toy("--status")
    assert "in Slurm" in table and "node" in table and "exp/.slurm/02_two.log" in table
    assert "waiting (Dependency)" in " ".join(job_of(toy, "three"))
    # A second submission shares what is in the queue; one with other options is refused.
    again = toy("--submit", "--words", "$(touch evil) 'a b'")
    assert again.count("is in the queue already") == 2
    other = toy("--submit", "--stage", "3", "--text", "other", code=1)
    assert "stage 3 three is in the queue with other options" in other and "--cancel" in other
    words = ["--submit", "--words", "c", "--stage", "1", "--stop_stage", "2"]
    assert "two is in the queue" in (text := toy(*words, code=1)) and "needs what stage 1 one" in text
    # So is a driver that would work in the same folders at the same time.
    busy = toy("--stage", "2", "--stop_stage", "2", "--words", "$(touch evil) 'a b'", code=1)
    assert "is in use by process" in busy
    (toy.folder / "go").touch()
    wait_for(lambda: (toy.folder / "exp/3.txt").exists() and not queue("03_three"))
    assert (toy.folder / "data/one.txt").read_text() == "hello\n$(touch\nevil)\na b\n"
    assert not [name for name in toy.files() if name.endswith("evil")]
    states = toy.states("--words", "$(touch evil) 'a b'")
    assert list(states.values()) == ["done", "done", "done"]
    assert "nothing to submit" in toy("--submit", "--words", "$(touch evil) 'a b'")


def test_a_stage_that_fails_ends_what_needs_it(toy):
    toy.hook("exit 3")
    toy("--submit")
    wait_for(lambda: not queue("0"))
    assert "failed" in job_of(toy, "two") and "cancelled, or a job before it failed" in toy("--status")
    assert toy.states()["two"] == "failed"
    toy.hook("")
    printed = toy("--submit")
    assert "stage 1" not in printed and "stage 2 two: job" in printed
    wait_for(lambda: (toy.folder / "exp/3.txt").exists())


def test_cancel(toy):
    toy.hook("touch up; sleep 1000")
    toy("--submit")
    wait_for(lambda: (toy.folder / "up").exists())
    assert "running" in job_of(toy, "two")
    assert "cancelled: " in toy("--cancel")
    wait_for(lambda: not queue("0"))
    assert toy.states()["two"] in ("interrupted", "failed")
    assert "nothing of this recipe is in the queue" in toy("--cancel")
    assert not (toy.folder / "exp/3.txt").exists()


def test_what_was_cancelled_and_is_still_ending_is_not_shared(toy):
    """A training that saves, say, once it was cancelled: what is submitted meanwhile comes after it."""
    toy.hook("touch up; while [ ! -e go ]; do sleep 0.1; done")
    toy("--submit")
    wait_for(lambda: (toy.folder / "up").exists())
    for folder in (toy.folder / "exp/.slurm/q").glob("0*"):
        (folder / "cancelled").touch()  # as --cancel does; these here take their time
    printed = toy("--submit")
    assert "stage 2 two: job" in printed and "in the queue already" not in printed, printed
    assert "waiting (Dependency)" in " ".join(job_of(toy, "two"))
    (toy.folder / "go").touch()
    wait_for(lambda: not queue("0"))
    assert (toy.folder / "exp/3.txt").exists() and job_of(toy, "three").count("done") == 2


def test_an_array_of_which_a_half_has_ended(tmp_path, monkeypatch):
    """--cancel ends what waits and what runs; what was done stays done, what failed stays failed."""
    monkeypatch.chdir(tmp_path)
    submitter = Submitter(None)
    scripts = [
        "true",
        "exit 3",
        "trap 'exit 75' TERM; touch runs; while true; do sleep 0.1; done",
        "sleep 1000",
    ]
    works = [submitter.work(["sh", "-c", script], ()) for script in scripts]
    record = submitter.submit(works, "logs/x.JOB.log", "cpu", at_once=1)
    wait_for(lambda: (tmp_path / "runs").exists())
    (looks,) = submitter.look([record])
    assert [look.state for look in looks] == ["done", "failed", "running", "waiting"]
    assert submitter.cancel([record]) == [record["job"]]
    wait_for(lambda: not queue("x.JOB"))
    (looks,) = submitter.look([record])
    assert [look.state for look in looks] == ["done", "failed", "failed", "failed"]
    assert [look.why for look in looks[1:]] == ["status 3", "cancelled", "cancelled"]
    assert submitter.cancel([record]) == []


def test_the_login_shell_may_die(toy):
    """The process that submitted is gone, and all it had started; the stages run, and --status knows them."""
    toy.hook("sleep 1")
    process = toy.start("--submit")
    assert process.wait(600) == 0
    wait_for(lambda: (toy.folder / "exp/3.txt").exists() and not queue("0"))
    assert toy("--status").count(" done ") == 2 * 3  # of each stage, and of its job


def test_the_login_shell_may_die_while_it_submits(toy):
    """What was submitted until then is on record: shared by the next submission, ended by --cancel."""
    toy.hook("sleep 1000")
    path = instead(toy, sbatch="if [ -e first ]; then kill -9 $PPID; exit 1; fi; touch first")
    toy("--submit", code=-signal.SIGKILL, PATH=path)
    wait_for(lambda: (toy.folder / "data/one.txt").exists() and not queue("01_one"))
    assert "done" in job_of(toy, "one")[3:]
    printed = toy("--submit")
    assert "stage 1" not in printed and "stage 2 two: job" in printed


def test_slurm_refuses_in_the_middle_and_is_away(toy):
    """What was submitted before is on record; a Slurm that does not answer invents no end of a job."""
    refuse = "if [ -e first ]; then echo 'sbatch: error: Invalid account' >&2; exit 1; fi"
    path = instead(
        toy,
        sbatch=f"{refuse}; touch first",
        squeue="[ ! -e away ] || exit 1",
        scancel="[ ! -e away ] || exit 1",
    )
    (toy.folder / "local/one.sh").write_text("#!/bin/sh\nsleep 1000\n")
    printed = toy("--submit", code=1, PATH=path)
    assert (
        "stage 1 one: job" in printed and "sacctmgr" in printed and "`account` in conf/slurm.yaml" in printed
    )
    assert queue("01_one")
    (toy.folder / "away").touch()
    assert "unknown (Slurm does not answer)" in toy("--status", PATH=path)
    assert "Slurm did not take it; try again" in toy("--cancel", code=1, PATH=path)
    (toy.folder / "away").unlink()
    assert "cancelled: " in toy("--cancel", PATH=path)
    wait_for(lambda: not queue("01_one"))


def test_a_driver_that_works_here_refuses_a_submission(toy):
    """The jobs would wait for its locks in vain."""
    toy.hook("touch here; sleep 1000")
    process = toy.start(start_new_session=True)
    wait_for(lambda: (toy.folder / "here").exists())
    assert "is in use by process" in toy("--submit", code=1)
    assert not list((toy.folder / "exp/.slurm").glob("*.json"))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(600) != 0


def test_a_requeued_stage_goes_on(toy):
    """Stage 2 is taken from its node; it starts again and finishes, and stage 3 has waited for it."""
    toy.hook("echo run >>runs; [ $(wc -l <runs) = 2 ] || sleep 1000")
    job = re.search(r"stage 2 two: job (\d+)", toy("--submit"))[1]
    wait_for(lambda: (toy.folder / "runs").exists() and (toy.folder / "runs").read_text())
    time.sleep(1.0)
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: (toy.folder / "exp/3.txt").exists())
    assert toy.states()["two"] == "done"
    assert (toy.folder / "runs").read_text() == "run\nrun\n"
    told = (toy.folder / "exp/.slurm/02_two.log").read_text()
    assert re.findall("^resume=.*", told, re.M) == ["resume=false", "resume=true"]


def test_what_needs_the_internet_runs_where_it_was_typed(toy):
    """A part with `login: true`: before anything is submitted, and if it fails nothing is."""
    part = toy.template / "stages/02_two.cache.sh"
    script = '. "${template_dir}/utils/stage.sh"\nrun local/two.sh source.txt fetched\n'
    part.write_text(f"#!/usr/bin/env bash\n# does: fetch\n# when: {{nj: ['1']}}\n# login: true\n{script}")
    assert "stage 2 two.cache failed" in toy("--submit", code=1)
    assert not list((toy.folder / "exp/.slurm").glob("*.json"))
    (toy.folder / "source.txt").write_text("x")
    printed = toy("--submit")
    assert (toy.folder / "fetched").exists() and printed.index("two.cache") < printed.index("job ")
    wait_for(lambda: (toy.folder / "exp/3.txt").exists())
    assert toy.states()["two.cache"] == "done"


def test_the_same_recipe_waits(toy):
    """`--cmd_backend slurm`: run.sh drives; the same files, and Ctrl-C leaves nothing in the queue."""
    toy("--cmd_backend", "slurm")
    assert (toy.folder / "exp/3.txt").read_text() == "hello\n"
    assert "# Ended (code 0)" in (toy.folder / "exp/logs/three.2.log").read_text()
    assert list((toy.folder / "exp/logs/q").glob("three.JOB.*/done/2"))
    (toy.folder / "local/one.sh").write_text("#!/bin/sh\nsleep 1000\n")
    process = toy.start("--cmd_backend", "slurm", start_new_session=True)
    wait_for(lambda: "RUNNING" in queue("one."))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(600) != 0
    assert not queue("one.") and toy.states()["one"] == "interrupted"
