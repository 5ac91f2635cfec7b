"""Work in several processes with results in order, so that they do not depend on the number of processes.

The matrices of the data stages are too small for a BLAS library's threads, which would only get in each
other's way: every process uses one.
"""

import ctypes
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from threadpoolctl import threadpool_limits

from espnet_ext.errors import UserError
from espnet_ext.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
# Numbers of Linux's prctl and of glibc's mallopt.
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LIBC = ctypes.CDLL(None)


def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], nj: int, desc: str, unit: str = "part"
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of the items, computed by ``nj`` processes, with progress shown.

    Args:
        function: a picklable function.
        items: what to work on; each should be a second of work or so.
        nj: number of processes; 1 works in this one.
        desc: what is being done, for the progress line.
        unit: what an item is.

    Raises:
        UserError: raised by ``function``, or a process died (killed, out of memory).
    """
    if nj < 1:
        raise UserError(f"--nj {nj}: the number of processes must be at least 1")
    nj = min(nj, len(items))
    if nj <= 1:
        _keep_memory()
        with threadpool_limits(1):
            yield from progress(map(function, items), total=len(items), desc=desc, unit=unit)
        return
    # Only here: the imports take a tenth of the start of a stage that needs one process.
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    with ProcessPoolExecutor(nj, initializer=_start_worker) as pool:
        try:
            yield from progress(pool.map(function, items), total=len(items), desc=desc, unit=unit)
        except BrokenProcessPool:
            raise UserError(f"{desc}: a process was killed (out of memory?); try a smaller --nj") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread a process. Ctrl-C is for the parent to handle; when it is killed, so are the workers."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    threadpool_limits(1)


def _keep_memory() -> None:
    """Reuse freed memory. By default it goes back to the kernel, and new pages take a quarter of the time."""
    _LIBC.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    _LIBC.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into stretches of at most ``size`` items.

    >>> parts([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]
