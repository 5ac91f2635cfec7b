"""The recipe's own scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(recipe, repo_root, tmp_path):
    """Call run.sh with options; experiments go to a folder of the test's own, and so does the corpus."""

    def started(*options: str) -> subprocess.CompletedProcess:
        environment = os.environ | {
            "ESPNET_EXT_OWN_PYTHON": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        names = {"expdir": "exp", "datadir": "my data", "dumpdir": "dump"}
        folders = [f"--{option}={tmp_path / name}" for option, name in names.items()]
        command = [str(recipe / "run.sh"), *folders, *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return started


def test_run_is_short_and_a_link_away_from_the_template(recipe):
    assert len((recipe / "run.sh").read_text().splitlines()) < 60
    for name in ("asr.sh", "path.sh", "cmd.sh", "stages", "utils"):
        assert (recipe / name).resolve().is_relative_to(recipe.parents[1] / "TEMPLATE")


def test_help_and_scale(run):
    assert "--scale" in run("--help").stdout
    done = run("--stage", "data", "--stop_stage", "data", "--dry_run", "--scale", "0.02")
    assert done.returncode == 0 and "local/data.sh" in done.stdout
    done = run("--scale", "small")
    assert done.returncode == 1 and "--scale small: expected a number" in done.stderr


def test_stage_one(run, espeak, tmp_path):
    done = run("--stage", "1", "--stop_stage", "1", "--scale", "0.002", "--nj", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "my data" / "unlabelled" / "wav.scp").exists()
    assert '"scale": 0.002' in (tmp_path / "my data" / "corpus.json").read_text()
    done = run("--stage", "1", "--stop_stage", "1", "--scale", "0.002", "--nj", "1")
    assert done.returncode == 0 and "done" in done.stdout
