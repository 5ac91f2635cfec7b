"""A whole recipe with awkward names, handed to Slurm; then a matrix that shares its stages."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading

import pytest

from tests.recipes.conftest import run_recipe, tiny_options  # noqa: F401  fixtures
from tests.recipes.third_corpus.test_third_corpus import recipe, recording  # noqa: F401  fixtures
from tests.slurm.conftest import left, slurm, trainings, wait_for

pytestmark = pytest.mark.slow

MATRIX = """\
systems: [none]
seeds: [1]
sweep: {none: {one: --max_epoch 1, two: --max_epoch 2}}
choose: {decoding: ctc, figure: cer}
gpu_cap: 1
gpu_hours: 2
"""


def test_recipe_and_matrix(recipe, recording, run_recipe, tiny_options):  # noqa: F811
    own = [*tiny_options, "--local_data_opts", shlex.quote(str(recording)), "--max_drop_fraction", "0.5"]

    def run(*words, code=0):
        return run_recipe(recipe / "run.sh", *own, *words, code=code)

    submitted = run("--submit")
    jobs = re.findall(r"job (\d+)", submitted)
    assert "preflight: job" in submitted and len(jobs) == 14, submitted
    try:
        wait_for(lambda: not left(jobs), 2400)
    finally:
        subprocess.run(["scancel", *jobs], capture_output=True)  # of which Slurm may have forgotten some
    table = run("--status")
    logs = "".join(log.read_text(errors="replace")[-3000:] for log in (recipe / "exp/.slurm").glob("*.log"))
    # Of each stage and of the four parts for the starting model, itself and its job; the preflight.
    assert table.count(" done ") == 2 * (13 + 4) + 1, table + logs
    assert "preflight: all is well" in (recipe / "exp/.slurm/preflight.log").read_text()
    report = (recipe / "exp/report/RESULTS.md").read_text()
    assert "pretrain_seed1" in report and "none_seed1" in report
    assert (recipe / "exp/none_seed1/export/none_seed1.zip").is_file()
    assert not list(recipe.rglob("evil*"))
    assert "nothing to submit" in run("--submit")

    _matrix(recipe, run)


def _requeue(log):
    """Put the training that writes a log back into the queue, once it has ended an epoch."""
    wait_for(lambda: log.exists() and " done, " in log.read_text(), 2400)
    pids = trainings(log.parent)
    _tell(pids, signal.SIGSTOP)  # it must not be done before Slurm has the word, which wakes it as well
    try:
        rows = slurm("squeue", "-h", "-o", "%i %j").splitlines()
        (job,) = [row.split()[0] for row in rows if " train." in row]
        slurm("scontrol", "requeue", job)
    except BaseException:
        _tell(pids, signal.SIGCONT)
        raise


def _tell(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _matrix(recipe, run):  # noqa: F811
    """Two points of a sweep: stages 1 to 7 are there; the test set is decoded once one is chosen on dev."""
    file = recipe / "conf/matrix.yaml"
    file.write_text(MATRIX)
    words = ["--matrix", "conf/matrix.yaml"]
    planned = run(*words, "--status")
    assert "0 of 2 rows are done (2 to do)" in planned and "left: 4.00 GPU hours" in planned
    submitted = run(*words, "--submit")
    assert "none_one_seed1, none_two_seed1: job" in submitted and "features" not in submitted
    assert "is in the queue already" in run(*words, "--submit", code=1)
    wait_for(lambda: not left(re.findall(r"job (\d+)", submitted)), 2400)
    grid = run(*words, "--status")
    logs = "".join(log.read_text(errors="replace")[-3000:] for log in (recipe / "exp/.slurm").glob("*.log"))
    assert "2 of 2 rows are done" in grid, grid + logs
    chosen = re.search(r"none: (none_\w+) is best on check-up", grid)[1]
    other = {"none_one": "none_two", "none_two": "none_one"}[chosen]
    rows = json.loads((recipe / "exp/report/matrix.json").read_text())["rows"]
    facts = {row["experiment"]: row for row in rows}
    assert facts[f"{chosen}_seed1"]["dev"] <= facts[f"{other}_seed1"]["dev"]
    assert list(facts[f"{chosen}_seed1"]["test"]) == ["final.1"] and not facts[f"{other}_seed1"]["test"]
    assert facts[f"{chosen}_seed1"]["hours"] > 0
    assert "nothing to submit: all rows are done" in run(*words, "--submit")
    # One after the other, waiting for Slurm: what exists is not run again, nor what a training had done when
    # put back into the queue.
    file.write_text(MATRIX.replace("}}", ", three: --max_epoch 60}}"))
    assert "2 of 3 rows are done (1 to do)" in run(*words, "--status")
    log = recipe / "exp/none_three_seed1/train.log"
    helper = threading.Thread(target=_requeue, args=[log])
    helper.start()
    printed = run(*words, "--cmd_backend", "slurm")
    helper.join()
    told = log.read_text()
    assert told.count("# Started at") == 2 and told.count("resumed at epoch") == 1, told
    assert [line for line in printed.splitlines() if line.startswith("==")] == ["== none_three_seed1"]
    assert "3 of 3 rows are done" in run(*words, "--status")
