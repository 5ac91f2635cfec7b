"""A full disk and an interrupted stage leave nothing that looks finished."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_ext.data.outdir import output_dir
from espnet_ext.errors import UserError
from espnet_ext.processes import start_of

ROOT = Path(__file__).parents[2]


def _environment() -> dict:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _command(corpus, out, nj=1, command="make_features") -> list[str]:
    corpus.write()
    module = [sys.executable, "-m", f"espnet_ext.bin.{command}"]
    return [*module, "--in_dir", str(corpus.path), "--out_dir", str(out), "--nj", str(nj)]


def _fill(corpus, count: int, seconds: float = 1.0) -> None:
    for number in range(count):
        corpus.add(f"more-{number:03d}", corpus.tone(seconds, 8000, seed=number), 8000)


@pytest.mark.parametrize("nj", [1, 2])
@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_file_size_limit(corpus, tmp_path, feats_type, nj):
    _fill(corpus, 90, 0.4)
    done = subprocess.run(
        [*_command(corpus, "dump/x", nj), "--feats_type", feats_type],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        capture_output=True,
        text=True,
        env=_environment(),
    )
    assert done.returncode == 1 and "error: dump/x: cannot be written: File too large" in done.stderr, (
        done.stderr
    )
    assert "Traceback" not in done.stderr and list((tmp_path / "dump").iterdir()) == []


def test_read_only_folder(corpus, tmp_path):
    """Shared data that one may read only: the message says which options put output elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    try:
        command = _command(corpus, "disk/more/x")
        done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    finally:
        subprocess.run(["umount", disk], check=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: disk/more/x: may not be written: Read-only file system"), (
        done.stderr
    )
    assert "--token_listdir, --dumpdir" in done.stderr


def test_others_folder_is_told_from_unreadable_input(tmp_path):
    with pytest.raises(UserError, match=r"out/x: may not be written: Permission denied"):
        with output_dir(tmp_path / "out/x", "marker"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))
    with pytest.raises(PermissionError):
        with output_dir(tmp_path / "out/x", "marker"):
            raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/audio.wav")


@pytest.mark.parametrize("nj", [1, 2])
def test_full_disk(corpus, tmp_path, nj):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        _fill(corpus, 90)
        done = subprocess.run(
            _command(corpus, disk / "x", nj), capture_output=True, text=True, env=_environment()
        )
        assert done.returncode == 1 and "x: cannot be written: No space left on device" in done.stderr, (
            done.stderr
        )
        assert "Traceback" not in done.stderr and list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted(corpus, tmp_path, how):
    _fill(corpus, 200, 2.0)
    process = subprocess.Popen(
        _command(corpus, "dump/x", 2), env=_environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("dump/.x*/x/audio/0000/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    workers = [int(pid) for file in threads for pid in file.read_text().split()]
    process.send_signal(how)
    _, error = process.communicate(timeout=600)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), error
    assert "Traceback" not in error
    assert not (tmp_path / "dump" / "x").exists()
    if how == signal.SIGINT:
        assert list((tmp_path / "dump").iterdir()) == []
    else:
        # The workers end with their parent, and not because they are done.
        while any(start_of(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(workers) == 2 and len(list(tmp_path.glob("dump/.x*/x/audio/0000/*"))) < 200
    subprocess.run(_command(corpus, "dump/x"), env=_environment(), check=True, capture_output=True)
    assert (tmp_path / "dump" / "x" / "feats_type").exists()
