"""What an end of a job means, or that it does not start, and what to change."""

import re
import signal

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.launch.cluster import Ended

#: Traces of the kernel's or Slurm's own end of a job that took too much memory.
_MEMORY = re.compile(r"oom[-_ ]?kill|out[ -]of[ -]memory|exceeded (?:job |step )?memory limit", re.I)
_LIMIT = re.compile(r"DUE TO TIME LIMIT", re.I)
#: Reasons for which a job waits until somebody does something.
STUCK = re.compile(
    "held|BadConstraints|PartitionTimeLimit|PartitionNodeLimit|WallDuration|InvalidAccount|InvalidQOS|"
    "NeverSatisfied|PerJob",
    re.I,
)


def status_of(ended: Ended) -> int:
    """Exit status of a job that Slurm ended before it could leave one."""
    if ended.state == "COMPLETED":
        return ended.code
    if ended.state in ("PREEMPTED", "NODE_FAIL"):
        return RUN_AGAIN
    if ended.state in ("CANCELLED", "TIMEOUT", "DEADLINE"):
        return 128 + signal.SIGTERM
    return ended.code or 1


def meaning(ended: Ended | None, status: int, said: str) -> str:
    """How a job ended, in words with what to change.

    Args:
        ended: what Slurm knows, None if nothing.
        status: the exit status.
        said: what Slurm wrote into the job's own output.
    """
    state = ended.state if ended else ""
    if (
        state == "OUT_OF_MEMORY"
        or (status == 137 or state in ("FAILED", "CANCELLED"))
        and _MEMORY.search(said)
    ):
        return (
            "ran out of memory: ask for more (mem in conf/slurm.yaml, or --mem of the back end), or make the "
            "work smaller (--nj, frames_per_micro_batch)"
        )
    if state == "TIMEOUT" or (status >= 128 and _LIMIT.search(said)):
        return (
            "ran into its time limit: ask for more (time in conf/slurm.yaml, or --time of the back end); a "
            "training goes on by itself if signal_seconds leaves it time to save"
        )
    if state == "NODE_FAIL":
        return "lost its node; run it again"
    if state == "PREEMPTED":
        return "was preempted, and the site does not requeue; run it again (requeue: true in conf/slurm.yaml)"
    if state == "CANCELLED":
        return "was cancelled (scancel, or an administrator)"
    if status == RUN_AGAIN:
        return f"wants to be run again (status {RUN_AGAIN})"
    if status > 128 and status - 128 in set(signal.Signals):
        name = signal.Signals(status - 128).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"failed with status {status}"
