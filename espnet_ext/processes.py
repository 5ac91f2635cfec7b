"""Child processes that never outlive their parent, and whether a process of an earlier run still lives."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Seconds in which signals mean the same: the end of a login shell reaches a process directly, and through
#: those that hand it on. Later ones mean "now".
ONE_WISH = 1.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Ask the kernel (Linux) for a signal to this process when its parent dies, even by ``kill -9``.

    Args:
        parent: process id of the parent as the caller knows it; if it is dead already, the signal comes now.
        number: the signal.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent (Linux) of every descendant whose own parent dies: none escapes `end_children`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children(grace: float) -> None:
    """End and reap all children of this process, adopted ones too: SIGTERM, ``grace`` s later SIGKILL."""
    end = time.monotonic() + grace
    asked: set[int] = set()
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(child, os.WNOHANG)[0]:
                    continue
                if time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
                elif child not in asked:
                    os.kill(child, signal.SIGTERM)
                    asked.add(child)
        time.sleep(0.02)


def _children() -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def start_of(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None where there is no such process (or no /proc).

    A zombie counts as gone. Together with the process id this names a process while the machine is up.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name, in parentheses, may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def signal_group(group: int, number: int) -> bool:
    """Send a signal to every process of a group; False if the group has none left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def run_through(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command in the place of this process: signals go on to it, and it does not outlive this one.

    Returns:
        its exit status, 128 + N if signal N ended it.
    """
    parent = os.getpid()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    received: list[int] = []
    process = None

    def pass_on(number: int, _) -> None:
        received.append(number)
        # Ctrl-C reaches the whole process group by itself.
        if process and number != signal.SIGINT:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        process = subprocess.Popen(
            command, env=environment, preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM)
        )
        if set(received) - {signal.SIGINT}:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
