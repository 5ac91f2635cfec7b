"""`tools/check_install.py` tells what is there, what is missing and what that disables."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import distributions

import pytest


@pytest.fixture
def check(repo_root):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check_install", repo_root / "tools/check_install.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def only_program(tmp_path, monkeypatch):
    """Function that adds a program to a PATH that holds no other."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def add(name: str, script: str = "") -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return add


def test_says_everything_and_starts_light(repo_root):
    command = [sys.executable, "-X", "importtime", str(repo_root / "tools/check_install.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for what in (
        "Python",
        "packages",
        "espnet_ext",
        "sox",
        "espeak-ng",
        "sctk",
        "shellcheck",
        "GPU",
        "Slurm",
    ):
        assert re.search(rf"^\w+ +{what} ", done.stdout, flags=re.MULTILINE), what
    assert not re.search(r"\| +(torch|espnet2|numpy)\n", done.stderr)
    assert done.returncode == (1 if re.search("^missing", done.stdout, flags=re.MULTILINE) else 0)


@pytest.mark.parametrize(
    ("running", "state"), [((3, 10), "missing"), ((3, 11), "ok"), ((3, 12), "differs"), ((3, 13), "missing")]
)
def test_python(check, running, state):
    assert check.check_python(running).state == state


def test_packages(check):
    numpy = check.version("numpy")
    rows = check.check_packages({"numpy": numpy, "no-such-package": "1.0", "PyYAML": "0.1"})
    states = {row.what: row.state for row in rows}
    assert states["packages"] == "ok" and rows[0].found.startswith("1 of 3")
    assert states["no-such-package"] == "missing" and states["PyYAML"] == "differs"


def test_missing_program_says_what_it_disables(check, only_program):
    only_program("sox")
    rows = {row.what: row for row in check.check_programs()}
    assert rows["sox"].state == "ok"
    assert rows["espeak-ng"].state == "missing" and "make demo" in rows["espeak-ng"].remark


def test_gpu(check, only_program):
    assert check.check_gpu().state == "absent"
    only_program("nvidia-smi", "echo driver not loaded; exit 9")
    assert check.check_gpu()[:3] == ("absent", "GPU", "nvidia-smi fails")
    only_program("nvidia-smi", "echo 'Some GPU, 81559 MiB'; echo 'Some GPU, 81559 MiB'")
    assert check.check_gpu().found == "Some GPU, 81559 MiB; Some GPU, 81559 MiB"


def test_slurm(check, only_program):
    assert check.check_slurm().state == "absent"
    only_program("sbatch")
    assert check.check_slurm().state == "ok"


def test_huggingface_cache(check, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert check.check_huggingface_cache().state == "absent"
    (tmp_path / "models--facebook--wav2vec2-base").mkdir()
    assert check.check_huggingface_cache().found.endswith("facebook/wav2vec2-base")


def test_status_says_whether_something_required_is_missing(check, only_program, capsys, monkeypatch):
    monkeypatch.setattr(check, "check_packages", lambda pins: [])
    assert check.main() == 1
    assert "missing: sox, espeak-ng, sctk, shellcheck" in capsys.readouterr().err
    for program in check.PROGRAMS:
        only_program(program)
    assert check.main() == 0


def test_pins_are_complete(check, repo_root):
    """What installed packages ask for is pinned, but for what requirements.txt leaves out and says so."""
    pins = {
        re.sub(r"[-_.]+", "-", name).lower() for name in check.read_pins(repo_root / "tools/requirements.txt")
    }
    asked = set()
    for distribution in distributions():
        if re.sub(r"[-_.]+", "-", distribution.name).lower() in pins | {"espnet-ext"}:
            for requirement in distribution.requires or []:
                name, _, marker = requirement.partition(";")
                if "extra" not in marker and "platform" not in marker and "python" not in marker:
                    asked.add(re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower())
    assert asked - pins == {"pyworld"}


def test_own_environment_of_the_wrong_version_is_refused(repo_root, only_program):
    only_program("python", "exit 1")
    script = f". '{repo_root}/tools/activate_python.sh'; echo status $?"
    environment = {"PATH": os.environ["PATH"], "ESPNET_EXT_OWN_PYTHON": "1"}
    done = subprocess.run(
        ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "not Python 3.11" in done.stderr and done.stdout == "status 1\n"


def test_environment_that_is_not_finished_is_not_used(repo_root, tmp_path):
    (tmp_path / "tools/venv/bin").mkdir(parents=True)
    script = tmp_path / "tools/activate_python.sh"
    script.write_text((repo_root / "tools/activate_python.sh").read_text())

    def activate(code: str) -> subprocess.CompletedProcess:
        command = ["/bin/bash", "-c", f". '{script}' && {code}"]
        return subprocess.run(
            command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )

    done = activate("true")
    assert done.returncode == 1 and f"run: make -C {tmp_path} setup" in done.stderr
    (tmp_path / "tools/venv/.finished").touch()
    # Sourced twice, as path.sh of a recipe that another recipe calls: PATH grows once.
    assert activate(f". '{script}' && echo $PATH").stdout == f"{tmp_path}/tools/venv/bin:/usr/bin:/bin\n"
