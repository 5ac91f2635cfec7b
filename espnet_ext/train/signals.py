"""Being asked to stop: the handler sets a flag, the loop looks at it between two steps."""

import signal
from types import FrameType


class StopRequest:
    """True once SIGUSR1 or SIGTERM has arrived while it was entered. Further signals change nothing.

    It may be entered again while it is entered: the outermost one counts, so that a command can watch from
    its start on, through the seconds of imports and reading, and the loop need not know.
    """

    def __init__(self):
        self.name: str | None = None
        self._before: dict = {}
        self._depth = 0

    def __enter__(self) -> "StopRequest":
        self._depth += 1
        if self._depth > 1:
            return self
        for number in (signal.SIGUSR1, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name

    def __bool__(self) -> bool:
        return self.name is not None
