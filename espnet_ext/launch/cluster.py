"""The few things we ask of Slurm: what there is, to run this, how far it is, to end it.

Every question is one call, whatever the number of jobs. The controller may be away for a while: a call that
fails is `None`, which means "not known", never "gone".
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from espnet_ext.errors import UserError
from espnet_ext.launch.refusals import hint

#: Seconds that submitting goes on trying while the controller does not answer.
PATIENCE = 900.0
#: Seconds for which an answer about a job is taken as that for its siblings, too.
ONE_MOMENT = 1.0
#: What sbatch says when trying again may help.
_AWAY = (
    "unable to contact|socket timed out|connection refused|connection reset|zero bytes|transient|"
    "temporarily|resource temporarily|message.*timeout|not responding|slurm_receive_msg"
)
#: What it says when this user has as many jobs as the site allows.
_FULL = "maxsubmitjob|job submit limit|violates accounting/qos policy|maxjobcount|job count limit"
#: States from which a job does not come back.
FINAL = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
}  # fmt: skip


class Full(Exception):
    """The site accepts no more jobs of this user for now."""


class Stopped(Exception):
    """The caller was told to end while Slurm did not answer."""


@dataclass(frozen=True)
class Partition:
    """One partition as `sinfo` shows it."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus: int  # of a node
    gpus: int  # of a node
    limit: str  # longest time


@dataclass(frozen=True)
class Ended:
    """How Slurm says that a job ended."""

    state: str
    code: int  # exit status, 128 + N after signal N


@dataclass(frozen=True)
class Queued:
    """A job, or those of an array that wait, in the queue."""

    job: str  # job id, of an array: its array's
    tasks: frozenset[int] | None  # indices in the array; None: no array
    state: str
    reason: str
    node: str
    elapsed: str
    name: str


class Cluster:
    """Slurm's commands."""

    def __init__(self):
        self._partitions: list[Partition] | None = None
        self._array: int | None = None
        self._sacct: bool | None = None
        self._last = ("", 0.0, "")  # job, when it was asked for, the answer

    def partitions(self) -> list[Partition]:
        """What `sinfo` shows; empty if it does not answer."""
        if self._partitions is None:
            text = _ask(["sinfo", "--noheader", "--format=%P|%a|%D|%c|%G|%l"]) or ""
            rows: dict[str, Partition] = {}
            for line in text.splitlines():
                name, up, nodes, cpus, gres, limit = (line.split("|") + [""] * 6)[:6]
                bare = name.rstrip("*")
                # GPUs of all types: gpu:a100:4(S:0-1),gpu:2
                gpus = sum(int(n) for n in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", gres))
                one = Partition(bare, name != bare, up == "up", _number(nodes), _number(cpus), gpus, limit)
                other = rows.get(bare)
                if other:  # a partition of several kinds of nodes has a line for each
                    one = Partition(
                        bare, one.default, one.up or other.up, one.nodes + other.nodes,
                        max(one.cpus, other.cpus), max(one.gpus, other.gpus), limit,
                    )  # fmt: skip
                rows[bare] = one
            self._partitions = list(rows.values())
        return self._partitions

    def array_size(self) -> int:
        """Jobs an array may have."""
        if self._array is None:
            found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]) or "", re.M)
            self._array = max(1, int(found[1])) if found else 1000
        return self._array

    def submit(self, arguments: Sequence[str], name: str, stopped: Callable[[], bool] = lambda: False) -> str:
        """Submit a job and return its id; waits for a controller that is away.

        Args:
            arguments: of sbatch, after the name and ``--parsable``.
            name: the job's name, which no other job has: so a job whose submission was not acknowledged is
                found again, and not submitted twice.
            stopped: whether to give up waiting.

        Raises:
            Full: the site's limit of submitted jobs is reached.
            Stopped: it gave up waiting.
            UserError: Slurm refuses the job, or does not answer for `PATIENCE` seconds.
        """
        end, pause, told = time.monotonic() + PATIENCE, 1.0, False
        while True:
            command = ["sbatch", "--parsable", f"--job-name={name}", *arguments]
            try:
                # In a group of its own: Ctrl-C must not end it between its question and its answer.
                found = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    process_group=0,
                )
            except FileNotFoundError:
                raise UserError(
                    "sbatch is not on PATH: is this a machine of the cluster? "
                    "(`module load slurm` on some sites)"
                ) from None
            job = (found.stdout.strip().splitlines() or [""])[-1].split(";")[0]  # after a site's banner
            if found.returncode == 0 and job.isdigit():
                return job
            why = found.stderr.strip() or found.stdout.strip() or f"status {found.returncode}"
            if re.search(_FULL, why, re.I):
                raise Full(why)
            if not re.search(_AWAY, why, re.I):
                raise UserError(f"Slurm refuses the job: {why.splitlines()[-1]}{hint(why)}")
            if time.monotonic() > end:
                raise UserError(f"Slurm has not answered for {PATIENCE / 60:.0f} minutes: {why}")
            if not told:
                told = True
                print(
                    f"Slurm does not answer ({why.splitlines()[-1]}); trying again",
                    file=sys.stderr,
                    flush=True,
                )
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if stopped():
                    raise Stopped
                time.sleep(0.2)
            pause = min(30.0, 2 * pause)
            # It may have been taken without an acknowledgement, and be done by now.
            known = _ask(["squeue", "--noheader", "--me", "--states=all", f"--name={name}", "--format=%F"])
            for line in (known or "").split():
                return line

    def queue(self, names: Iterable[str]) -> list[Queued] | None:
        """Jobs of these names that are in the queue; None if Slurm does not answer."""
        names = list(names)
        if not names:
            return []
        text = _ask(
            ["squeue", "--noheader", "--me", f"--name={','.join(names)}", "--format=%F|%K|%T|%r|%N|%M|%j"]
        )
        if text is None:
            return None
        rows = []
        for line in text.splitlines():
            if line.count("|") < 6:  # a site's banner
                continue
            job, tasks, state, reason, node, elapsed, name = line.split("|", 6)
            if state not in FINAL:
                rows.append(Queued(job, _tasks(tasks), state, reason, node, elapsed, name))
        return rows

    def ended(self, job: str, index: int | None) -> Ended | None:
        """How a job that has left the queue ended, by sacct where there is one; None if nobody knows."""
        which = job if index is None else f"{job}_{index}"
        task = "" if index is None else rf"\bArrayTaskId={index}\s.*"
        found = re.search(task + r"\bJobState=(\w+)\s.*\bExitCode=(\d+):(\d+)", self._shown(job))
        if found:
            return Ended(found[1], 128 + int(found[3]) if int(found[3]) else int(found[2]))
        if self._sacct is not False:
            text = _ask(
                ["sacct", "--noheader", "--parsable2", "-X", "--format=State,ExitCode", f"--jobs={which}"]
            )
            self._sacct = text is not None
            for line in filter(str.strip, (text or "").splitlines()):
                state, _, code = line.partition("|")
                first, _, second = code.partition(":")
                number = int(second or 0)
                return Ended(state.split()[0], 128 + number if number else int(first or 0))
        return None

    def _shown(self, job: str) -> str:
        """What the controller says of a job, a line for each of an array: one question at a time."""
        if self._last[0] != job or time.monotonic() > self._last[1] + ONE_MOMENT:
            text = _ask(["scontrol", "show", "job", "--oneliner", job]) or ""
            self._last = job, time.monotonic(), text
        return self._last[2]

    def cancel(self, jobs: Iterable[str]) -> bool:
        """End jobs; False if Slurm did not take it."""
        jobs = list(jobs)
        return not jobs or _ask(["scancel", *jobs]) is not None

    def cancel_named(self, name: str) -> None:
        """End a job whose submission was interrupted: it may have been taken, and nobody knows its number."""
        _ask(["scancel", f"--name={name}"])


def _ask(command: Sequence[str]) -> str | None:
    """Output of a command that only asks; None if it fails."""
    try:
        found = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=120,
            env={**os.environ, "SLURM_BITSTR_LEN": "0"},  # squeue would cut a long list of waiting jobs short
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout if found.returncode == 0 else None


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _tasks(text: str) -> frozenset[int] | None:
    """Indices of `squeue`'s %K.

    >>> sorted(_tasks("3-5,9%2"))
    [3, 4, 5, 9]
    """
    if not text or not text[0].isdigit():
        return None
    found: set[int] = set()
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return frozenset(found)
