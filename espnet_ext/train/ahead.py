"""Items of an iterator, fetched while the one before is being worked on."""

import queue
import threading
import time
from collections.abc import Iterator

#: Seconds that closing waits for the item that is under way. A loader process that was killed in the middle
#: of a message never ends it.
PATIENCE = 10.0

#: Comes after the last item.
_END = object()


class _Failure:
    """What ended the iterator before its time."""

    def __init__(self, error: BaseException):
        self.error = error


def ahead(items: Iterator) -> Iterator:
    """Take items in a thread of their own, one ahead of whoever asks for them.

    A batch out of a loader process costs the one who receives it three milliseconds, most of them spent
    waiting for the process to be given a core. What the iterator raises is raised here. Closing this
    generator ends the thread; it waits for the item that is under way, `PATIENCE` at most.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop = threading.Event()

    def fetch() -> None:
        try:
            for item in items:
                ready.put(item)
                if stop.is_set():
                    return
            ready.put(_END)
        except BaseException as error:
            ready.put(_Failure(error))

    thread = threading.Thread(target=fetch, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        until = time.monotonic() + PATIENCE
        # The garbage collector may close an abandoned generator in any thread, its own too.
        own = thread is threading.current_thread()
        while thread.is_alive() and not own and time.monotonic() < until:
            # An item that it holds already, or is about to hold: there is nobody left to take it.
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                pass
