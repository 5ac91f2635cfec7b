"""One way to show long work: a bar in a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

#: Seconds between two plain lines in a log.
LOG_EVERY = 10.0


def progress(
    iterable: Iterable[Item], total: int | None = None, desc: str = "", unit: str = "it"
) -> Iterator[Item]:
    """Yield the items of ``iterable`` and show on stderr how far it is.

    Args:
        iterable: what to go through.
        total: number of items, taken from ``len(iterable)`` where it has one.
        desc: what is being done, in a word or two.
        unit: what an item is, for the rate.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=desc, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    count = 0
    for count, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY and count != total:
            last = now
            print(_line(desc, count, total, unit, now - start), file=sys.stderr, flush=True)
    print(_line(desc, count, total, unit, time.monotonic() - start), file=sys.stderr, flush=True)


def _line(desc: str, count: int, total: int | None, unit: str, seconds: float) -> str:
    of = f"/{total} ({100 * count / total:.0f} %)" if total else ""
    return f"{desc}: {count}{of} {unit}, {seconds:.0f} s, {count / max(seconds, 1e-9):.1f} {unit}/s"
