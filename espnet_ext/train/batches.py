"""Which utterances an optimiser step sees: fixed by lengths, budget, seed and epoch, and by nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espnet_ext.errors import UserError
from espnet_ext.train.keys import generator


@dataclass(frozen=True)
class Step:
    """One optimiser step: its utterances, cut into micro-batches for memory only."""

    micro_batches: tuple[tuple[str, ...], ...]

    @property
    def utterances(self) -> list[str]:
        return [utterance for micro_batch in self.micro_batches for utterance in micro_batch]


def plan_epoch(
    lengths: Mapping[str, int],
    frames_per_step: int,
    frames_per_micro_batch: int,
    seed: int,
    epoch: int,
    pool: int = 32,
    processes: int = 1,
) -> list[Step]:
    """Cut an epoch into optimiser steps of about equal work.

    Utterances are shuffled, sorted by length inside pools of ``pool`` steps (little padding, yet other
    company every epoch), cut into steps, and the steps are shuffled.

    Args:
        lengths: length of every utterance, in any unit.
        frames_per_step: budget of a step in the same unit, padding counted.
        frames_per_micro_batch: budget of what is computed at once, padding counted; 0 cuts each step into
            ``processes`` pieces of about equal work.
        seed, epoch: the key of the shuffle.
        pool: number of steps inside which utterances are sorted.
        processes: see ``frames_per_micro_batch``; without effect where that is given.

    Raises:
        UserError: there is nothing to train on.
    """
    if not lengths:
        raise UserError("there is no utterance to train on")
    draw = generator(seed, "batches", epoch)
    order = sorted(lengths)
    draw.shuffle(order)
    steps: list[Step] = []
    budget = pool * frames_per_step
    group: list[str] = []
    filled = 0
    for utterance in order:
        if group and filled + lengths[utterance] > budget:
            steps += _steps_of(group, lengths, frames_per_step, frames_per_micro_batch, processes)
            group, filled = [], 0
        group.append(utterance)
        filled += lengths[utterance]
    steps += _steps_of(group, lengths, frames_per_step, frames_per_micro_batch, processes)
    draw.shuffle(steps)
    return steps


def plan_sorted(lengths: Mapping[str, int], frames_per_batch: int) -> list[tuple[str, ...]]:
    """Batches in order of length, for validation and other passes without an order of their own."""
    return cut(
        sorted(lengths, key=lambda utterance: (lengths[utterance], utterance)), lengths, frames_per_batch
    )


def cut(order: Sequence[str], lengths: Mapping[str, int], budget: int) -> list[tuple[str, ...]]:
    """Cut a sequence so that count x longest stays within ``budget``; what exceeds it stands alone."""
    pieces: list[tuple[str, ...]] = []
    current: list[str] = []
    longest = 0
    for utterance in order:
        longest = max(longest, lengths[utterance])
        if current and longest * (len(current) + 1) > budget:
            pieces.append(tuple(current))
            current, longest = [], lengths[utterance]
        current.append(utterance)
    if current:
        pieces.append(tuple(current))
    return pieces


def cut_evenly(order: Sequence[str], lengths: Mapping[str, int], pieces: int) -> list[tuple[str, ...]]:
    """Cut a sequence into at most ``pieces`` runs whose largest padded size is as small as it can be."""
    low, high = 1, len(order) * max(lengths[utterance] for utterance in order)
    while low < high:
        middle = (low + high) // 2
        # What is longer than the budget stands alone, so that too small a budget gives too many pieces.
        if len(cut(order, lengths, middle)) <= pieces:
            high = middle
        else:
            low = middle + 1
    return cut(order, lengths, low)


def _steps_of(
    group: list[str], lengths, frames_per_step: int, frames_per_micro_batch: int, processes: int
) -> list[Step]:
    by_length = sorted(group, key=lambda utterance: (lengths[utterance], utterance))
    steps = cut(by_length, lengths, frames_per_step)
    if frames_per_micro_batch:
        return [Step(tuple(cut(step, lengths, frames_per_micro_batch))) for step in steps]
    if processes == 1:
        return [Step((step,)) for step in steps]
    return [Step(tuple(cut_evenly(step, lengths, processes))) for step in steps]
