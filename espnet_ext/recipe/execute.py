"""Run one stage script as a child in a process group of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.processes import ONE_WISH, adopt_orphans, die_with_parent, end_children, signal_group

#: Seconds that leftovers of a stage have to end after SIGTERM.
GRACE = 5.0


class StageRun:
    """A stage script that runs; signals to this process go on to it.

    The first Ctrl-C or SIGTERM asks the stage to save and end, the second ends it at once.
    """

    def __init__(
        self, script: Path, words: list[str], environment: Mapping[str, str], descriptors: list[int]
    ):
        """Say what to run.

        Args:
            script: the stage file.
            words: its arguments.
            environment: its environment.
            descriptors: descriptors (of locks) that it inherits.
        """
        self.command = ["bash", str(script), *words]
        self.environment, self.descriptors = dict(environment), descriptors
        self.signals: list[int] = []
        self.since = 0.0  # when the last one came
        self.told = False
        self.process: subprocess.Popen | None = None

    def run(self) -> int:
        """Run the script to its end and return its status, 128 + N if signal N ended it.

        Whatever it leaves behind (all children of this process) is ended before this returns.
        """
        adopt_orphans()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        parent = os.getpid()
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=self.descriptors,
                process_group=0,
                preexec_fn=lambda: die_with_parent(parent),
            )
            if self.signals:  # it may have come while the process was being started
                self._tell()
            code = self.process.wait()
        finally:
            end_children(GRACE)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 128 - code if code < 0 else code

    def _on_signal(self, number: int, frame) -> None:
        if self.signals and time.monotonic() - self.since < ONE_WISH:
            return
        self.since = time.monotonic()
        self.signals.append(number)
        if self.process is None:
            return
        if len(self.signals) == 1:
            self._tell()
        else:
            signal_group(self.process.pid, signal.SIGKILL)

    def _tell(self) -> None:
        """Ask only the script to end, once: it hands the signal on, and two mean "now" to a training."""
        if not self.told:
            self.told = True
            self.process.send_signal(signal.SIGTERM)
