"""Fake preemption: the local back end interrupts its jobs and runs them again, as a cluster would.

``ESPNET_EXT_PREEMPT="20 USR1 KILL"`` interrupts every job after each 20 seconds, in turn by the signal that
comes ahead of a time limit and by one that leaves no time to save; ``"save USR1 KILL"`` interrupts a training
after a new checkpoint, however fast the machine is, once by each signal. So it can be seen on one machine,
without Slurm, that a recipe survives what will happen to it.
"""

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.launch.jobfolder import MAX_FRUITLESS

VARIABLE = "ESPNET_EXT_PREEMPT"
#: In place of seconds: after each checkpoint.
SAVE = "save"
#: What a time limit, a preemption and a lost node send.
SIGNALS = ("USR1", "TERM", "KILL")


@dataclass(frozen=True)
class Preemption:
    """When jobs are interrupted, and how."""

    seconds: float  # of a run; inf: until it has written a checkpoint
    signals: tuple[int, ...]

    @classmethod
    def from_environment(cls) -> "Preemption | None":
        """What the environment asks for.

        Raises:
            UserError: it is not ``SECONDS [SIGNAL...]`` or ``save [SIGNAL...]``.
        """
        words = os.environ.get(VARIABLE, "").split()
        if not words:
            return None
        try:
            seconds = float(words[0]) if words[0] != SAVE else 1.0
        except ValueError:
            seconds = 0.0
        names = words[1:] or ["TERM"]
        if not 0 < seconds < math.inf or set(names) - set(SIGNALS):
            raise UserError(
                f"{VARIABLE}={' '.join(words)}: expected seconds, or {SAVE}, and signals of "
                f"{', '.join(SIGNALS)}"
            )
        seconds = math.inf if words[0] == SAVE else seconds
        return cls(seconds, tuple(signal.Signals[f"SIG{name}"] for name in names))

    @property
    def on_save(self) -> bool:
        """Whether it waits for checkpoints, and not for a time."""
        return self.seconds == math.inf

    def due(self, seconds: float, runs: "Runs") -> bool:
        """Whether a run that has lasted so long is to be interrupted."""
        if self.on_save:
            # A run that resumes at its end saves once more: without a limit it would never come to it.
            return runs.count < len(self.signals) and runs.moved()
        return seconds > self.seconds

    def signal_of(self, run: int) -> int:
        """How a job's run (the first is 0) is interrupted."""
        return self.signals[run % len(self.signals)]


class Runs:
    """The runs of one job: whether it may run again."""

    def __init__(self, progress: Sequence[str]):
        """Nothing has run yet.

        Args:
            progress: files that change when the job has moved on.
        """
        self.progress, self.count, self.fruitless = progress, 0, 0
        self.place = self._place()

    def again(self, code: int, number: int) -> bool:
        """Whether a job that was interrupted by a signal, and ended with a status, runs once more."""
        if code not in (RUN_AGAIN, 128 + number):
            return False
        self.count += 1
        before, self.place = self.place, self._place()
        self.fruitless = self.fruitless + 1 if before == self.place else 0
        return not self.given_up

    def moved(self) -> bool:
        """Whether there is progress since the run began."""
        return self._place() != self.place

    @property
    def given_up(self) -> bool:
        """Whether it got nowhere too often."""
        return self.fruitless >= MAX_FRUITLESS

    def _place(self) -> list[tuple]:
        found = []
        for name in self.progress:
            if Path(name).exists():
                stat = os.stat(name)
                found.append((name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found


def checkpoints_of(command: Sequence[str]) -> list[str]:
    """Files that change when a training moves on, or a dump that goes on with what is there."""
    name, file = "--output_dir", "checkpoint.pth"
    if "espnet_ext.bin.lm_targets" in command:
        name, file = "--out_dir", "index.txt"
    places = [command[i + 1] for i, word in enumerate(command[:-1]) if word == name]
    return [str(Path(place, file)) for place in places]


def fruitless_message(times: int) -> str:
    """What a job that gets nowhere is told."""
    return (
        f"error: this job ended {times} times without progress: no checkpoint was written in between. If it "
        "was preempted or ran into its time limit, save more often (--checkpoint_minutes, --checkpoint_steps "
        "of the training) or ask for a longer time limit (train: time in conf/slurm.yaml); else see above "
        "why it ended.\n"
    )
