"""Batches by a budget of audio, and what to do when one of them does not fit into memory."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from espnet_ext.decode.source import Utterance
from espnet_ext.errors import UserError

Result = TypeVar("Result")


def make_batches(utterances: Sequence[Utterance], seconds: float) -> list[list[Utterance]]:
    """Group utterances of similar length, longest first, so that what does not fit into memory shows at once.

    Args:
        utterances: in any order.
        seconds: most audio of a batch, padding included; an utterance longer than that is a batch of its own.

    Returns:
        Batches whose lengths fall.
    """
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda each: (-each.seconds, each.name)):
        if batches and batches[-1][0].seconds * (len(batches[-1]) + 1) <= seconds:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def in_halves(batch: list[Utterance], work: Callable[[list[Utterance]], list[Result]]) -> list[Result]:
    """Call ``work`` on a batch; where memory runs out, on its halves, and so on.

    Args:
        batch: utterances.
        work: returns one result an utterance, whatever the batch.

    Raises:
        UserError: not even one utterance fits.
    """
    try:
        return work(batch)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        message = str(error).splitlines()[0]
    # Outside the except block: there the traceback would keep the tensors of the failed attempt alive.
    if len(batch) == 1:
        raise UserError(
            f"utterance {batch[0].name!r} ({batch[0].seconds:.1f} s) does not fit into memory ({message}); "
            "use a smaller beam_size, cut it with `segments`, or decode it on a machine with more memory"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return in_halves(batch[:middle], work) + in_halves(batch[middle:], work)


def _out_of_memory(error: RuntimeError) -> bool:
    """torch has a type for a full GPU; for full main memory it raises a RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
