"""Runs a training over and over, hurting it in a given way each time, until it gets through.

Started as a process of its own by tests: it imports everything once and then forks, which saves the seconds
that each start would take.

    python survive.py PLAN.json

The plan: `task` (module:class), `cmd`, `processes`, `harms` (list of {"how": "kill" | "USR1" | "TERM",
"after": seconds | "save"}), `path` (folders for imports). Prints one JSON line: exit statuses and how many
hits fell into a save.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

#: Seconds after which a moment that does not come is given up.
LIMIT = 300


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    sys.path[:0] = plan["path"]
    module, name = plan["task"].split(":")
    task = getattr(importlib.import_module(module), name)
    statuses, in_save = [], 0
    for harm in [*plan["harms"], None]:
        children = _start(task, plan["cmd"], plan["processes"])
        if harm is not None:
            in_save += _hurt(children, harm, plan["cmd"])
        statuses.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps({"statuses": statuses, "in_save": in_save}))


def _start(task, cmd: list[str], processes: int) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # What comes once the training handles signals no more, at its very end, changes its status no more.
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        status = 1
        try:
            status = task.main(cmd=cmd)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return children


def _hurt(children: list[int], harm: dict, cmd: list[str]) -> int:
    """Send the signal; 1 if it fell into a save. A training that ends first is left alone."""
    folder = Path(cmd[cmd.index("--output_dir") + 1])
    end = time.monotonic() + LIMIT
    number = {"kill": signal.SIGKILL, "USR1": signal.SIGUSR1, "TERM": signal.SIGTERM}[harm["how"]]
    while harm["how"] != "kill" and not all(_handles(each, number) for each in children):
        # Earlier it would be lost.
        if time.monotonic() > end or not _alive(children):
            break
        time.sleep(0.0005)
    saving = False
    if harm["after"] == "save":
        while not saving and time.monotonic() < end and _alive(children):
            time.sleep(0.0005)
            if _saving(folder, children):
                _stop(children)
                saving = _saving(folder, children)
                if not saving:  # it was done before it stopped
                    _send(children, signal.SIGCONT)
    else:
        # Counted from the first sign of life, so that slow machines reach the training as well.
        while not (folder / "config.yaml").exists() and time.monotonic() < end and _alive(children):
            time.sleep(0.001)
        time.sleep(harm["after"])
    # They stand still meanwhile: one that sees the other one gone would end by itself, with another status.
    _stop(children)
    hit = _alive(children)
    if hit:
        _send(children if harm["how"] == "kill" else children[-1:], number)
    _send(children, signal.SIGCONT)
    if hit and harm["how"] != "kill":
        time.sleep(0.01)
        _send(children[-1:], signal.SIGTERM)  # a second one must not break the first
    return int(hit and saving)


def _send(children: list[int], number: int) -> None:
    """Nobody has waited for them yet, so that the numbers are theirs, whether they live or not."""
    for child in children:
        os.kill(child, number)


def _stop(children: list[int]) -> None:
    """Make them stand still, in the middle of whatever they do."""
    _send(children, signal.SIGSTOP)
    while any(_state(child) not in "TtZX" for child in children):
        time.sleep(0.0002)


def _saving(folder: Path, children: list[int]) -> bool:
    """Whether one of these processes writes a checkpoint; one killed earlier may have left its file."""
    names = [path.name for path in folder.glob(".checkpoint.pth.*")]
    return any(f"-{child}." in name for name in names for child in children)


def _handles(child: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal."""
    lines = Path(f"/proc/{child}/status").read_text().splitlines()
    caught = next((line for line in lines if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _alive(children: list[int]) -> bool:
    return all(_state(child) not in "ZX" for child in children)


def _state(child: int) -> str:
    return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    main()
