"""`tools/lint.sh` finds every shell script, whatever its name."""

import shutil
import subprocess

import pytest


@pytest.mark.skipif(
    not shutil.which("shellcheck"), reason="shellcheck is not installed: see tools/check_install.py"
)
@pytest.mark.parametrize("name", ["tools/broken.sh", "egs2/x/asr1/broken", ".ci/broken"])
def test_broken_script_is_found(repo_root, tmp_path, name):
    (tmp_path / "tools").mkdir()
    shutil.copy(repo_root / "tools/lint.sh", tmp_path / "tools/lint.sh")
    broken = tmp_path / name
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text("#!/usr/bin/env bash\nrm -rf $1/\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "tools/lint.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"In {name} line 2" in done.stdout


def test_ignored_folders_of_recipes_and_tools(repo_root):
    paths = ["tools/venv/x", "egs2/synth/asr1/data/x", "egs2/synth/asr1/dump/x", "egs2/synth/asr1/exp/x"]
    command = ["git", "check-ignore", *paths]
    if not (repo_root / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == paths
