"""A Slurm cluster of one node, the back end as a program, and the toy training of tests/train."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.conftest import toy_cmd, toy_corpus  # noqa: F401  fixtures

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tools/local_slurm/cluster.sh"
SLOW_TRAIN = Path(__file__).with_name("slow_train.py")
#: Of the training in slices of a minute: some 150 steps.
SLICED = ("--max_epoch", "30", "--resume", "true")


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """The cluster of `make slurm-up`, started if it is not running; its environment is set for all tests."""
    if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        pytest.skip("slurmctld is not installed (Debian: apt-get install slurm-wlm munge)")
    text = subprocess.run([CLUSTER, "env"], capture_output=True, text=True, check=True).stdout
    os.environ["SLURM_CONF"] = text.split("=", 1)[1].strip()
    done = subprocess.run([CLUSTER, "up"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    if "it runs already" not in done.stdout:
        subprocess.run([CLUSTER, "down"], check=True, capture_output=True)


@pytest.fixture
def environment(tmp_path):
    """Environment of the programs that are tested."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "ESPNET_EXT_OWN_PYTHON": "1",
    }
    environment.pop("template_dir", None)
    return environment


@pytest.fixture
def start(tmp_path, environment):
    """Start the back end in an empty folder; what is left of it ends with the test."""
    started = []

    def start(*words, kind="cpu", **extra):
        command = [sys.executable, "-m", "espnet_ext.bin.run_slurm", "--kind", kind, *map(str, words)]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=200)


@pytest.fixture
def run(start):
    """Run the back end to its end: exit status and output."""

    def run(*words, timeout=600, **extra):
        process = start(*words, **extra)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    return run


def wait_for(condition, seconds=600):
    """Wait until a condition holds; returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def slurm(*words) -> str:
    """Output of one of Slurm's commands."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def queue(name: str) -> list[str]:
    """States of the jobs whose name begins so."""
    rows = [line.split(None, 1) for line in slurm("squeue", "-h", "-r", "-o", "%T %j").splitlines()]
    return [state for state, job in rows if job.startswith(name)]


def left(jobs: list[str]) -> list[str]:
    """Those of some jobs, by number, that are still in the queue; other tests' jobs may be there as well."""
    return sorted({*slurm("squeue", "-h", "-r", "-o", "%F").split()} & {*jobs})


def trainings(folder: Path) -> list[int]:
    """Processes that train in an experiment's folder, those of `srun` and of the back end left out."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = [os.fsdecode(word) for word in file.read_bytes().split(b"\0")]
            ours = words[1:2] == [str(SLOW_TRAIN)] or words[1:3] == ["-m", "espnet_ext.bin.asr_train"]
            if ours and folder.name in (Path(word).name for word in words):
                found.append(int(file.parent.name))
    return found


@pytest.fixture(scope="session")
def limited(cluster, tmp_path_factory):
    """A job that runs into its time limit, a minute at least, while other tests run."""
    folder = tmp_path_factory.mktemp("limited")
    yield from _beside(folder, "cpu", ["--time", "1", "limited.log", "sleep", "1000"])


@pytest.fixture(scope="session")
def sliced(cluster, toy_cmd, tmp_path_factory):  # noqa: F811
    """A training that lasts longer than its time limit of a minute, while other tests run: its folder."""
    folder = tmp_path_factory.mktemp("sliced")
    (folder / "conf").mkdir()
    (folder / "conf/slurm.yaml").write_text("train: {signal_seconds: 5}\n")
    slow = [sys.executable, str(SLOW_TRAIN), "1.0", *toy_cmd(folder / "exp", *SLICED)]
    yield from _beside(folder, "train", ["--time", "1", "sliced.log", *slow])


def _beside(folder: Path, kind: str, words: list[str]):
    """Run the back end to the end of all tests; the process, which knows its folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "espnet_ext.bin.run_slurm", "--kind", kind, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.folder = folder
    yield process
    process.terminate()
    process.communicate(timeout=200)
