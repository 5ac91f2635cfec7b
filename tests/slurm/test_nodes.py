"""A training over two nodes: a second cluster, of two slurmd on this machine."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.slurm.conftest import CLUSTER
from tests.train.test_survival import end_of, same

# The training in slices goes on beside these tests and those after them. Not beside test_array.py: after
# its start a controller looks at time limits half a minute later, too late for the signal ahead of one.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sliced")]
TWO_NODES = "train: {tasks: 2, nodes: 2, cpus: 1}"


@pytest.fixture
def two_nodes():
    """Environment of a cluster of two nodes, which ends with the test."""
    state = tempfile.mkdtemp(prefix="slurm2_")  # short: it holds a socket
    port = int(os.environ.get("SLURM_LOCAL_PORT", 16817)) + 50
    environment = os.environ | {"SLURM_LOCAL_STATE": state, "SLURM_LOCAL_PORT": str(port)}
    done = subprocess.run([CLUSTER, "up", "2"], env=environment, capture_output=True, text=True)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield {"SLURM_CONF": f"{state}/slurm.conf"}
    finally:
        subprocess.run([CLUSTER, "down"], env=environment, check=True, capture_output=True)
        shutil.rmtree(state, ignore_errors=True)  # a daemon's last words may come after its end was seen


def test_two_nodes_train_as_one(two_nodes, start, toy_cmd, tmp_path):
    """`srun` with a task on each of two nodes, gloo: the parameters of two processes on one machine."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.yaml").write_text(TWO_NODES)
    nodes = [sys.executable, "-c", SAY + f"os.execv({sys.executable!r}, sys.argv[1:])", sys.executable]
    words = ["train.log", *nodes, "-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "srun")]
    process = start(*words, kind="train", **two_nodes)
    out, _ = process.communicate(timeout=900)
    log = (tmp_path / "train.log").read_text()
    assert process.returncode == 0, out + log
    assert "task 0 on node1" in log and "task 1 on node2" in log
    one = [sys.executable, "-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "one")]
    code = f"from espnet_ext.train.spawn import run; import sys; sys.exit(run(2, {one!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env=_one_thread(), stdout=subprocess.DEVNULL)
    assert same(end_of(tmp_path / "srun")["modules"], end_of(tmp_path / "one")["modules"])


SAY = "import os, sys; print('task', os.environ['SLURM_PROCID'], 'on', os.environ['SLURMD_NODENAME']); "
SAY += "sys.stdout.flush(); "


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
