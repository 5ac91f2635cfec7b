"""The synth recipe's own modules, a plan at full scale, and a tiny corpus on disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "egs2" / "synth" / "asr1"
sys.path.insert(0, str(RECIPE / "local"))


@pytest.fixture(scope="session")
def recipe() -> Path:
    """The recipe's folder."""
    return RECIPE


@pytest.fixture(scope="session")
def config() -> dict:
    """The corpus' settings as they are in the repository."""
    return yaml.safe_load((RECIPE / "conf" / "corpus.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def grammar():
    """The corpus' grammar."""
    from synth.grammar import Grammar

    return Grammar(RECIPE / "local" / "grammar")


@pytest.fixture(scope="session")
def plan(config, grammar):
    """Everything but the audio, at scale 1."""
    from synth.plan import make_plan

    return make_plan(config, grammar, seed=0, scale=1)


@pytest.fixture(scope="session")
def espeak():
    """Skip where espeak-ng or sox is missing."""
    for tool in ("espeak-ng", "sox"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


class Maker:
    """Runs make_corpus.py in a folder of its own."""

    command = [sys.executable, str(RECIPE / "local" / "make_corpus.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def __call__(self, folder: Path, *options: str, **how) -> subprocess.CompletedProcess:
        """Run it to its end with ``--scale 0.01``; the corpus goes to ``folder/data``."""
        folder.mkdir(parents=True, exist_ok=True)
        how = {"env": self.environment} | how
        command = [*self.command, "--scale", "0.01", *options]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, **how)


@pytest.fixture(scope="session")
def make(espeak) -> Maker:
    """Call it to make a tiny corpus."""
    return Maker()


@pytest.fixture(scope="session")
def tiny(make, tmp_path_factory) -> Path:
    """``data`` of a tiny corpus made with two processes; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    done = make(folder, "--nj", "2")
    assert done.returncode == 0, done.stderr
    return folder / "data"
