"""One driver at a time in the folders a recipe writes to."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.processes import start_of

NAME = ".recipe.lock"
#: In the environment of rows of a matrix: they work in the same folders at the same time.
SHARED = "ESPNET_EXT_SHARED"


@contextlib.contextmanager
def locked(folders: list[Path], shared: bool = False, wait: float = 0.0) -> Iterator[list[int]]:
    """Hold the lock of every folder; yields the descriptors, for child processes to inherit.

    The kernel drops a lock when the last process that inherited it is gone, so a killed driver leaves none
    behind, and jobs that outlive their driver still hold it. A folder that cannot be written needs no lock.

    Args:
        folders: what is locked.
        shared: beside others who hold it shared; they keep out of each other's way by finer locks.
        wait: seconds to wait for another driver, which may be the run before this one, on another node.

    Raises:
        UserError: another driver (the message says which) works in one of the folders.
    """
    with contextlib.ExitStack() as stack:
        descriptors = []
        for folder in dict.fromkeys(folder.resolve() for folder in folders):
            descriptor = _open(folder)
            if descriptor is None:
                continue
            stack.callback(os.close, descriptor)
            if not _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait):
                holder = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip() or "another process"
                if _gone(holder):
                    raise UserError(
                        f"{folder} is in use by jobs that {holder} has left: it was killed, and they are "
                        "saving and ending. Wait some seconds and run it again"
                    )
                raise UserError(
                    f"{folder} is in use by {holder}. Wait for it, end it, or give this run folders of its "
                    "own (--expdir, --dumpdir, --datadir)"
                )
            os.ftruncate(descriptor, 0)  # of several who share it, the last
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            descriptors.append(descriptor)
        yield descriptors


def _gone(holder: str) -> bool:
    """Whether the driver that took a lock is no more, while its jobs still hold it."""
    words = holder.split()
    mine = len(words) == 4 and words[0] == "process" and words[3] == socket.gethostname()
    return mine and words[1].isdigit() and start_of(int(words[1])) is None


def _take(descriptor: int, how: int, wait: float) -> bool:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(min(1.0, wait))


def _open(folder: Path) -> int | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return None
    except OSError as error:
        if error.errno == 30:  # read-only file system
            return None
        raise
