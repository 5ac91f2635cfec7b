"""One training at a time in a folder, and a killed one leaves no lock."""

import os
import subprocess
import sys

import pytest

from espnet_ext.errors import UserError
from espnet_ext.train import alone as module
from espnet_ext.train.alone import NAME, alone
from espnet_ext.train.world import World

HOLD = """
import sys
from pathlib import Path
from espnet_ext.train.alone import alone
from espnet_ext.train.world import World
with alone(Path(sys.argv[1]), World()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_is_refused_until_the_first_is_gone(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    message = f"{tmp_path}: process {holder.pid} on .* is training in this folder; wait for it, end it, or"
    with pytest.raises(UserError, match=message), alone(tmp_path, World()):
        raise AssertionError("both are at work")
    monkeypatch.setattr(module, "PATIENCE", 10.0)
    holder.kill()
    with alone(tmp_path, World()):
        assert (tmp_path / NAME).read_text().startswith(f"process {os.getpid()} on ")


def test_a_child_that_outlives_its_training_holds_nothing(tmp_path, monkeypatch):
    """As a loader process does for some seconds after its training was killed."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    read, write = os.pipe()
    with alone(tmp_path, World()):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the test is over
            os._exit(0)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    other = subprocess.run(command, input="", capture_output=True, text=True)
    os.close(write)
    os.waitpid(child, 0)
    assert other.stdout == "held\n", other.stderr


def test_processes_beside_the_first_hold_nothing(tmp_path):
    class Second(World):
        def any(self, *flags):
            return list(flags)

    with alone(tmp_path, Second(rank=1, size=2)):
        assert not (tmp_path / NAME).exists()
