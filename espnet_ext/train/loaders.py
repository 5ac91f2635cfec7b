"""Processes that load batches ahead of time: what they send, and how they end."""

import atexit
import contextlib
import functools
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.ahead import ahead

#: Seconds between two looks of a loader process at whether its training lives.
_WATCH = 2.0
#: Iterators whose loader processes may still run.
_LOADERS: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _end_loaders() -> None:
    """End loaders that an error left behind: they ignore SIGTERM, so Python would wait for them for ever."""
    for iterator in list(_LOADERS):
        iterator._shutdown_workers()


def _begin_loader(training: int, _: int) -> None:
    """In a loader process of the training with this number: signals are left to it, and its end is theirs.

    A signal to the process group must not take the loader from the training that is about to save.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(training,), daemon=True).start()


def _end_with(training: int) -> None:
    """End this process once the training is gone.

    torch's own watch does not suffice: a loader in the middle of a message waits for ever, for it is one of
    the processes that could read it.
    """
    while os.getppid() == training:
        time.sleep(_WATCH)
    os._exit(1)


@contextlib.contextmanager
def loaders_watched() -> Iterator[None]:
    """Inside, a loader process that something else ends is an error of the machine, not of the code.

    torch raises it in the main thread, wherever that is.

    Raises:
        UserError: naming the process and how it ended.
    """
    try:
        yield
    except RuntimeError as error:
        first: BaseException | None = error  # torch's own may have come in the middle of a lock's work
        while first is not None and not str(first).startswith("DataLoader worker"):
            first = first.__context__
        if first is None:
            raise
        raise UserError(
            f"{str(first).splitlines()[0].rstrip('. ')}: a loader process was ended from outside, as by the "
            "kernel when memory is full; run the same command again with --resume true, with fewer "
            "--num_workers or more memory"
        ) from None


@dataclass
class _Compact:
    """Collates in a loader process; tensors of up to ``largest`` bytes travel as arrays inside the message.

    Others travel as files in shared memory: making one, opening it and giving it back costs both processes
    more than it spares them, unless what opens it copies it to a GPU.
    """

    collate: Callable
    largest: float

    def __call__(self, items: list) -> tuple[list[str], dict[str, torch.Tensor | np.ndarray]]:
        utterances, tensors = self.collate(items)
        return utterances, {n: t.numpy() if t.nbytes <= self.largest else t for n, t in tensors.items()}


def _tensors(items: Iterator) -> Iterator:
    """What `_Compact` made arrays of, as tensors again."""
    for utterances, values in items:
        yield (
            utterances,
            {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in values.items()},
        )


def load_ahead(
    dataset: torch.utils.data.Dataset,
    batches: Iterable[list],
    collate: Callable,
    num_workers: int,
    pinned: bool = False,
) -> Iterator[tuple[list[str], dict[str, torch.Tensor]]]:
    """Batches in the given order, made ahead of time.

    Args:
        dataset: of items.
        batches: the items of each; it may be endless: it is read only as far as the loader runs ahead.
        collate: makes a batch of items.
        num_workers: loader processes; 0 loads in this one. They change no result.
        pinned: on their way to a GPU.

    Raises:
        UserError: what the dataset raised, without the traceback that torch puts around a message out of a
            loader process.
    """
    compact = _Compact(collate, 2**16 if pinned else float("inf")) if num_workers else collate
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=compact,
        num_workers=num_workers,
        worker_init_fn=functools.partial(_begin_loader, os.getpid()),
        prefetch_factor=4 if num_workers else None,
        # Loading draws nothing; a generator of its own keeps the loader off the global one.
        generator=torch.Generator().manual_seed(0),
        pin_memory=pinned,
    )
    iterator = iter(loader)
    parallel = hasattr(iterator, "_shutdown_workers")  # what torch calls when the iterator is collected
    if parallel:
        _LOADERS.add(iterator)
    try:
        yield from ahead(_tensors(iterator)) if parallel else iterator
    except UserError as error:
        message = str(error).strip().splitlines()[-1]
        raise UserError(message.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from None
    finally:
        if parallel:
            # One that was killed is told when its batches are missed; here nobody wants any more of them.
            with contextlib.suppress(RuntimeError):
                iterator._shutdown_workers()
