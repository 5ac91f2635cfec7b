"""One training at a time in an experiment's folder."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.train.world import World

NAME = ".training.lock"
#: Seconds for the run before this one to end: one that was killed may still be giving back its memory.
PATIENCE = 10.0


@contextlib.contextmanager
def alone(folder: Path, world: World) -> Iterator[None]:
    """Inside, no other training writes to ``folder``; the first process holds the lock for all.

    The kernel drops the lock when that process ends, however it ends. It is one of `lockf`, which loader
    processes do not inherit. Where a file system has no locks, nothing is held.

    Raises:
        UserError: another training is at work there, in every process.
    """
    descriptor, holder = _take(folder) if world.first else (None, "")
    try:
        if world.any(bool(holder))[0]:
            raise UserError(
                f"{folder}: {holder or 'another training'} is training in this folder; wait for it, end it, "
                "or use another experiment (--tag, --output_dir). Should there be none (a network file "
                f"system may keep the lock of a node that broke down), remove {folder / NAME}"
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(folder: Path) -> tuple[int | None, str]:
    """(descriptor that holds the lock or None, who holds it instead or nothing)."""
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            holder = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            return None, holder or "another process"
        except OSError:
            return descriptor, ""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return descriptor, ""
