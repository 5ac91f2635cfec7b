"""Job logs as Kaldi's run.pl writes them: command, host, start; the output; accounting, exit status, end."""

import contextlib
import os
import shlex
import socket
import time
from pathlib import Path


def open_log(path: Path, command: list[str], append: bool = False) -> int:
    """Create a log with its header and return a descriptor to append to; the log before is kept as ``.prev``.

    Args:
        path: the log.
        command: what is run.
        append: the job runs once more: its log goes on.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size and not append:
        os.replace(path, path.with_name(path.name + ".prev"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags if append else flags | os.O_TRUNC, 0o666)
    write(
        descriptor,
        f"# {shlex.join(command)}\n# Running on {socket.gethostname()}\n# Started at {time.ctime()}\n#\n",
    )
    return descriptor


def close_log(descriptor: int, code: int, seconds: float, threads: int) -> None:
    """Write the footer (exit status, elapsed time) and close the log."""
    # A disk that is full now must not hide how the job ended.
    with contextlib.suppress(OSError):
        write(
            descriptor,
            f"# Accounting: time={seconds:.0f} threads={threads}\n"
            f"# Ended (code {code}) at {time.ctime()}, elapsed time {seconds:.0f} seconds\n",
        )
    os.close(descriptor)


def write(descriptor: int, text: str) -> None:
    """Append text; a name that is not UTF-8 is written as the bytes it came as."""
    os.write(descriptor, text.encode("utf-8", "surrogateescape"))


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, at most its last 64 KiB; the parts a progress bar overwrote are left out."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 65536))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")[-lines:]]
