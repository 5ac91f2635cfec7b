"""What a person sees while jobs run: one changing line in a terminal, a plain one now and then in a log."""

import shutil
import sys
import time
from pathlib import Path

from espnet_ext.launch.joblog import tail


class Watch:
    """Shows how many jobs are done and the last line of the log that changed last."""

    def __init__(self, total: int, title: str):
        self.total, self.title = total, title
        self.done = 0
        self.start = time.monotonic()
        self.live = sys.stderr.isatty()
        # In a log the pauses grow: hours of training should not fill it.
        self.pause = 0.5 if self.live else 30.0
        self.next = self.start + self.pause
        self.last = ""

    def show(self, running: int, logs: list[Path]) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now < self.next:
            return
        if not self.live:
            self.pause = min(2 * self.pause, 300.0)
        self.next = now + self.pause
        count = f" {self.done}/{self.total} done, {running} running," if self.total > 1 else ""
        text = f"{self.title}:{count} {now - self.start:.0f} s{self._latest(logs)}"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
            self.last = text
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Wipe the line in a terminal, so that what follows starts on a clean one."""
        if self.live and self.last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    @staticmethod
    def _latest(logs: list[Path]) -> str:
        times = [(log.stat().st_mtime, log) for log in logs if log.exists()]
        lines = tail(max(times)[1], 1) if times else []
        printable = "".join(char for char in lines[-1] if char.isprintable()) if lines else ""
        return f", {printable.strip()}" if printable.strip() and not printable.startswith("#") else ""
