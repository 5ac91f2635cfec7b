"""One process a GPU on this machine, started by the training command itself.

torchrun would do as well; but it ends at SIGUSR1, and its own exit status says nothing of its processes'.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.processes import die_with_parent

#: Seconds that the other processes have to end by themselves once one has failed.
GRACE = 10.0


def run(count: int, cmd: list[str] | None = None) -> int:
    """Start ``count`` processes of a command, pass on SIGTERM and SIGUSR1, and wait for them.

    Args:
        count: processes; each finds its number in RANK.
        cmd: the command; None is this very one.

    Returns:
        0 if all are done, 75 if all stopped to be run again, else the status of the first that failed.
    """
    # `orig_argv` is how Python was called, `-m` and all.
    cmd = cmd or [sys.executable, *sys.orig_argv[1:]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parent = os.getpid()
    processes = []
    for rank in range(count):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen(
                cmd,
                env=os.environ | {name: str(value) for name, value in env.items()},
                preexec_fn=lambda: die_with_parent(parent),
            )
        )

    def pass_on(number: int, _) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        return _wait(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            process.kill()


def _wait(processes: list[subprocess.Popen]) -> int:
    failed_at = None
    first = 0
    while True:
        codes = [process.poll() for process in processes]
        bad = [code for code in codes if code not in (None, 0, RUN_AGAIN)]
        if bad and failed_at is None:
            failed_at, first = time.monotonic(), bad[0]
        if None not in codes:
            return first or max(codes)
        if failed_at is not None and time.monotonic() - failed_at > GRACE:
            # They wait in vain for the one that failed.
            for process in processes:
                process.kill()
        time.sleep(0.05)
