"""A stream of optimiser steps' worth of data that knows where it is, and finds that place without reading."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from espnet_ext.train.batches import Step, plan_epoch
from espnet_ext.train.data import Batch, SpeechData
from espnet_ext.train.keys import key
from espnet_ext.train.method import Totals
from espnet_ext.train.world import World


@dataclass
class StreamStep:
    """What a stream gives to one optimiser step."""

    totals: Totals
    batches: list[tuple[int, Batch]]  # (number of the micro-batch in the step, batch): this process's own
    utterances: list[str]  # of all processes
    passes: int  # which pass over the data it belongs to, from 1
    samples: int  # length of its speech in the unit of the data (samples or stored frames)


class Stream:
    """One source of training data, cut into steps. It goes on for ever: after a pass comes the next.

    Args:
        name: `labelled`, `unlabelled`, ...; the batches of each name are drawn on their own.
        data: the utterances.
        frame_shift: samples a feature frame (1 for stored features), so that budgets are in frames.
        frames_per_step: feature frames of an optimiser step, padding counted.
        frames_per_micro_batch: of what is computed at once; 0 cuts a step into one piece a process.
        seed: the training's.
        world: micro-batch i is computed by process i modulo their number.
    """

    def __init__(
        self,
        name: str,
        data: SpeechData,
        frame_shift: int,
        frames_per_step: int,
        frames_per_micro_batch: int = 0,
        seed: int = 0,
        world: World | None = None,
    ):
        self.name, self.data, self.world = name, data, world or World()
        self.frame_shift = frame_shift
        self.frames_per_step, self.frames_per_micro_batch = frames_per_step, frames_per_micro_batch
        self.lengths = {u: -(-length // frame_shift) for u, length in data.lengths.items()}
        # `labelled` keeps the keys that a training without further streams has.
        self.seed = seed if name == "labelled" else key(seed, "stream", name)
        self.position = {"pass": 1, "step": 0}
        self._plans: dict[int, list[Step]] = {}
        self._planning = threading.Lock()  # the loader asks for plans too, from a thread of its own
        self._loaded: Iterator[Batch] | None = None
        self.num_workers = 0

    def plan(self, passes: int) -> list[Step]:
        """The steps of a pass over the data."""
        with self._planning:
            if passes not in self._plans:
                # The loader is at most one pass ahead of the training.
                self._plans = {p: plan for p, plan in self._plans.items() if p >= passes - 2}
                self._plans[passes] = plan_epoch(
                    self.lengths,
                    self.frames_per_step,
                    self.frames_per_micro_batch,
                    self.seed,
                    passes,
                    processes=self.world.size,
                )
            return self._plans[passes]

    def steps(self, passes: int) -> int:
        """Number of optimiser steps in a pass (from 1)."""
        return len(self.plan(passes))

    def open(self, num_workers: int) -> None:
        """Begin to load from the present position on, in ``num_workers`` processes (0: in this one)."""
        self.close()
        self.num_workers = num_workers
        self._loaded = self.data.load(self._order(**self.position), num_workers, self.world.device)

    def close(self) -> None:
        """End the loader; the position stays."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = None

    def next(self) -> StreamStep:
        """Data of the next step; moves the position."""
        if self._loaded is None:
            self.open(self.num_workers)
        passes = self.position["pass"]
        plan = self.plan(passes)
        step = plan[self.position["step"]]
        batches = []
        for number, planned in self._own(step):
            batch = next(self._loaded)
            if tuple(batch.utterances) != planned:
                raise RuntimeError(f"loader gave {batch.utterances[:2]}..., the plan says {planned[:2]}...")
            batches.append((number, batch))
        self.position["step"] += 1
        if self.position["step"] == len(plan):
            self.position = {"pass": passes + 1, "step": 0}
        return StreamStep(
            self.totals(step.utterances),
            batches,
            step.utterances,
            passes,
            sum(self.data.lengths[utterance] for utterance in step.utterances),
        )

    def totals(self, utterances: list[str]) -> Totals:
        """Denominators of a set of utterances."""
        labels = self.data.labels
        return Totals(
            len(utterances),
            sum(labels[u] + 1 for u in utterances) if labels else 0,
            sum(self.lengths[u] for u in utterances),
        )

    def augment_keys(self, batch: Batch, passes: int) -> list[int]:
        """Keys of the batch's utterances for masks and the like: (seed, pass, utterance)."""
        return [key(self.seed, "augment", passes, utterance) for utterance in batch.utterances]

    def largest(self, budget: int) -> list[tuple[str, ...]]:
        """Batches of at most ``budget`` frames that need most memory: the longest, and the most."""
        by_length = sorted(self.lengths, key=lambda u: (self.lengths[u], u))
        longest = by_length[-max(1, budget // self.lengths[by_length[-1]]) :]
        most: list[str] = []
        for utterance in by_length:
            if self.lengths[utterance] * (len(most) + 1) > budget:
                break
            most.append(utterance)
        return [tuple(longest)] + ([tuple(most)] if most else [])

    def _own(self, step: Step) -> Iterator[tuple[int, tuple[str, ...]]]:
        for number, micro_batch in enumerate(step.micro_batches):
            if number % self.world.size == self.world.rank:
                yield number, micro_batch

    def _order(self, **position: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        passes, start = position["pass"], position["step"]
        while True:
            for step in self.plan(passes)[start:]:
                for _, micro_batch in self._own(step):
                    yield passes, micro_batch
            passes, start = passes + 1, 0
