"""`tools/install.sh` on machines that are not right: the message says what to do, and nothing is changed.

The machine is a folder of small scripts, which are the only programs that setup can find.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# What the script may use as it is; everything else is there only if a test says so.
REAL = [
    "awk",
    "basename",
    "bash",
    "cat",
    "diff",
    "dirname",
    "find",
    "flock",
    "grep",
    "head",
    "mkdir",
    "mv",
    "rm",
]
REAL += ["sed", "sha256sum", "tail", "test", "tr"]
PROGRAMS = ["sox", "espeak-ng", "sctk", "shellcheck"]


class Machine:
    """A copy of what setup needs, and a PATH of its own."""

    def __init__(self, folder: Path, repo_root: Path):
        self.repository = folder / "a copy"  # with a space: people have such folders
        (self.repository / "tools").mkdir(parents=True)
        for name in ("setup.py", "tools/install.sh", "tools/requirements.txt", "tools/check_install.py"):
            shutil.copy(repo_root / name, self.repository / name)
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in REAL:
            self.have(name, f'exec {shutil.which(name)} "$@"')
        for name in PROGRAMS:
            self.have(name)
        self.have("id", "echo 1000")
        self.have("df", 'echo Avail; echo "${FREE_GB:-100}"')
        self.have_python("3.11")

    def have(self, name: str, script: str = "") -> None:
        """Add or replace a program."""
        path = self.programs / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def have_python(self, version: str, name: str = "python3.11", pip: str = "exit 0") -> None:
        """Add a Python that can say its version and make an environment in which `pip` does what is given."""
        self.have(
            name,
            f"""
if [[ $2 == *version_info* ]]; then echo {version}
elif [[ $2 == *_base_executable* ]]; then echo "${{BASH_SOURCE[0]}}"
elif [[ "$1 $2" == "-m venv" ]]; then
  mkdir -p "$3/bin" "$3/lib/python3/site-packages"
  cp "$0" "$3/bin/python"
elif [[ "$1 $2 $3" == "-m pip install" ]]; then echo "pip $*"; {pip}
fi""",
        )
        self.have("cp", f'exec {shutil.which("cp")} "$@"')

    def setup(self, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", str(self.repository / "tools/install.sh")],
            env={"PATH": str(self.programs), **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    def refuses(self, *messages: str, **environment: str) -> None:
        """Setup fails with these messages, before any change."""
        before = sorted(self.repository.rglob("*"))
        done = self.setup(**environment)
        assert done.returncode == 1, done.stdout
        for message in messages:
            assert message in done.stderr
        assert sorted(self.repository.rglob("*")) == before


@pytest.fixture
def machine(tmp_path, repo_root):
    return Machine(tmp_path, repo_root)


def test_installs_and_then_has_nothing_to_do(machine):
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "torch==2.11.0" in done.stdout and done.stdout.endswith("prints what is there\n")
    again = machine.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_changed_pins_are_installed_into_the_same_environment(machine):
    machine.setup()
    mine = machine.repository / "tools/venv/mine"
    mine.touch()
    with open(machine.repository / "tools/requirements.txt", "a") as pins:
        pins.write("another==1.0\n")
    assert "going on with tools/venv" in machine.setup().stdout
    assert mine.exists()
    assert machine.setup().stdout == ""


def test_interrupted_setup_goes_on(machine):
    machine.have_python(
        "3.11", pip='[[ "$*" != *nvidia-cudnn* ]] || { echo "No space left on device"; exit 1; }'
    )
    done = machine.setup()
    assert done.returncode == 1
    assert "| No space left on device" in done.stderr
    assert "run make setup again" in done.stderr and "TMPDIR" in done.stderr
    packages = machine.repository / "tools/venv/lib/python3/site-packages"
    (packages / "half.dist-info").mkdir()
    (packages / "whole.dist-info").mkdir()
    (packages / "whole.dist-info/RECORD").touch()
    machine.have_python("3.11")
    shutil.copy(machine.programs / "python3.11", machine.repository / "tools/venv/bin/python")
    assert "going on" in machine.setup().stdout
    assert [path.name for path in packages.iterdir()] == ["whole.dist-info"]
    assert machine.setup().stdout == ""


def test_moved_repository_is_installed_anew(machine, tmp_path):
    machine.setup()
    machine.repository = machine.repository.rename(tmp_path / "elsewhere")
    assert "creating tools/venv" in machine.setup().stdout


def test_not_root_gets_the_command(machine):
    machine.have("apt-get", "echo never called >&2; exit 1")
    (machine.programs / "sctk").unlink()
    (machine.programs / "sox").unlink()
    command = "apt-get install --yes --no-install-recommends sox sctk"
    machine.refuses("missing: sox sctk; nothing was changed", f"sudo apt-get update && sudo {command}\n")
    done = machine.setup(ESPNET_EXT_SKIP_SYSTEM="1")
    assert done.returncode == 0
    assert "going on without sox sctk" in done.stdout


def test_root_installs_what_is_missing(machine):
    called = machine.repository.parent / "called"
    machine.have("apt-get", f'echo "$*" >>"{called}"')
    machine.have("id", "echo 0")
    (machine.programs / "espeak-ng").unlink()
    assert machine.setup().returncode == 0
    assert called.read_text() == "update\ninstall --yes --no-install-recommends espeak-ng\n"


def test_failing_apt_shows_its_last_words(machine):
    machine.have("apt-get", "echo E: Temporary failure resolving deb.debian.org; exit 100")
    machine.have("id", "echo 0")
    (machine.programs / "sctk").unlink()
    done = machine.setup()
    assert done.returncode == 1
    assert "| E: Temporary failure resolving" in done.stderr and "universe" in done.stderr
    assert not (machine.repository / "tools/venv").exists()


def test_machine_without_apt(machine):
    (machine.programs / "shellcheck").unlink()
    machine.refuses("missing: shellcheck", "no apt-get", "ESPNET_EXT_SKIP_SYSTEM=1")


def test_debian_python_without_venv(machine):
    machine.have("apt-get")
    machine.have("python3.11", "if [[ $2 == *version_info* ]]; then echo 3.11; else exit 1; fi")
    machine.refuses("python3.11-venv")


def test_other_pythons_are_refused(machine):
    (machine.programs / "python3.11").unlink()
    machine.have_python("3.9", "python3")
    machine.refuses("needs Python 3.11", "python3 is 3.9", "make setup PYTHON=/path/to/python3.11")
    machine.refuses("/nowhere/python", PYTHON="/nowhere/python")


def test_python_3_12_is_called_untested(machine):
    machine.have_python("3.12", "python3.12")
    assert "untested" not in machine.setup().stdout  # 3.11 comes first
    done = machine.setup(PYTHON="python3.12")
    assert "creating tools/venv with Python 3.12" in done.stdout and "untested" in done.stdout


def test_small_disk(machine):
    machine.refuses("3 GB are free", "nothing was changed", FREE_GB="3")


def test_own_environment_is_only_looked_at(machine):
    machine.have("python", f'exec {sys.executable} "$@"')
    done = machine.setup(ESPNET_EXT_OWN_PYTHON="1", PATH=f"{machine.programs}:{os.environ['PATH']}")
    assert "ESPNET_EXT_OWN_PYTHON=1" in done.stdout and "tools/requirements.txt" in done.stdout
    assert not (machine.repository / "tools/venv").exists()
