"""One turn of an optimiser step: micro-batches, retries, one reduction, clipping, update, or a skip."""

import contextlib
import gc
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.buffers import RunningStatistics
from espnet_ext.train.data import Batch
from espnet_ext.train.method import KEPT, Figures, Loss, Method, MicroBatch, Part, Position, Turn
from espnet_ext.train.precision import autocast
from espnet_ext.train.streams import Stream, StreamStep
from espnet_ext.train.world import World


@dataclass
class Update:
    """What became of a turn."""

    figures: Figures  # of this process's micro-batches
    finite: bool  # False: loss or gradient was not finite, and nothing was updated
    norm: float  # largest gradient norm of the clip groups, before clipping
    bad: list[str] = field(default_factory=list)  # this process's utterances that the trouble came from
    bad_batches: list[Batch] = field(default_factory=list)


@dataclass
class _Work:
    """A micro-batch waiting to be computed, or half of one that was too large."""

    part: Part
    micro: MicroBatch


@contextlib.contextmanager
def naming(batch: Batch) -> Iterator[None]:
    """Inside, a UserError is told with the utterances that were computed: a model sees tensors without names.

    Raises:
        UserError: that one; as it is if it speaks of one of them.
    """
    try:
        yield
    except UserError as error:
        if set(re.split(r"[\s:;,()'\"]+", str(error))) & set(batch.utterances):
            raise
        raise UserError(f"{error} ({batch.about()})") from None


class StepRunner:
    """Runs the turns of one optimiser step after the other.

    Args:
        method: what is trained.
        streams: where the batches come from, by name.
        world: the processes.
        seed: first part of all random keys.
        precision: `fp32` or `bf16`.
        on_split: called with (step, micro-batch, utterances) when a micro-batch did not fit the memory.
    """

    def __init__(
        self,
        method: Method,
        streams: Mapping[str, Stream],
        world: World,
        seed: int,
        precision: str = "fp32",
        on_split: Callable[[int, int, list[str]], None] = lambda *_: None,
    ):
        self.method, self.streams, self.world = method, streams, world
        self.seed, self.precision, self.on_split = seed, precision, on_split
        self.statistics = RunningStatistics(method.modules.values())

    def run(
        self, turn: Turn, data: Mapping[str, StreamStep], kept: dict[str, list], position: Position
    ) -> Update:
        """Forward, backward and update of a turn.

        Args:
            turn: what to do.
            data: this step's batches of each stream that the turn's parts name.
            kept: what earlier turns of the step kept, by name; this turn's is added.
            position: of the step.

        Raises:
            UserError: one utterance alone does not fit the memory, or a loss refuses one.
        """
        parameters = self._parameters(turn)
        work = self._work(turn, data, kept, position)
        with _only(parameters, self._all_parameters()):
            results = self._accumulate(work, parameters)
            for _, loss in results:
                if loss.count is not None:
                    loss.count()
            kept[turn.name] = [(w.micro, loss.kept) for w, loss in results if loss.kept is not None]
            self.world.sum_gradients(parameters)
            update = self._apply(turn, results)
        self.statistics.commit(self.world)
        for parameter in parameters:
            parameter.grad = None
        return update

    def losses(self, turn: Turn, data: Mapping[str, StreamStep], kept: dict, position: Position) -> None:
        """Forward and backward without an update, to see whether they fit; raises as torch does."""
        parameters = self._parameters(turn)
        try:
            with _only(parameters, self._all_parameters()):
                done = []
                for item in self._work(turn, data, kept, position):
                    self._compute(item, done)
                kept[turn.name] = [(w.micro, loss.kept) for w, loss in done if loss.kept is not None]
        finally:
            self.statistics.restore()
            for parameter in parameters:
                parameter.grad = None

    def _parameters(self, turn: Turn) -> list[torch.nn.Parameter]:
        updaters = [self.method.updaters[name] for name in turn.updaters]
        return list({id(p): p for updater in updaters for p in updater.parameters}.values())

    def _all_parameters(self) -> list[torch.nn.Parameter]:
        return [p for updater in self.method.updaters.values() for p in updater.parameters]

    def _work(
        self, turn: Turn, data: Mapping[str, StreamStep], kept: dict, position: Position
    ) -> list[_Work]:
        work = []
        for part in turn.parts:
            if part.source.startswith(KEPT):
                for micro, what in kept[part.source.removeprefix(KEPT)]:
                    again = MicroBatch(micro.batch, micro.totals, micro.keys, micro.number, micro.seeds, what)
                    work.append(_Work(part, again))
                continue
            step, stream = data[part.source], self.streams[part.source]
            for number, batch in step.batches:
                keys = stream.augment_keys(batch, step.passes)
                micro = MicroBatch(batch, step.totals, keys, (position.step, number), (stream.seed,))
                work.append(_Work(part, micro))
        return work

    def _accumulate(self, work: list[_Work], parameters: list) -> list[tuple[_Work, Loss]]:
        """Gradients of all micro-batches, from the first again if one has to be cut for want of memory.

        A backward pass that runs out of memory has added some of its gradients and not others, so that
        nothing of the turn can be kept. All randomness has keys: what is computed again is the same.
        """
        while True:
            for parameter in parameters:
                parameter.grad = None
            self.statistics.begin()
            done: list[tuple[_Work, Loss]] = []
            try:
                for item in work:
                    self._compute(item, done)
                return done
            except torch.OutOfMemoryError:
                self.statistics.restore()
                where = len(done)
            # Outside the handler: the exception holds the frames, and those the tensors.
            done.clear()
            work = work[:where] + self._halves(work[where]) + work[where + 1 :]
            gc.collect()
            if self.world.device.type == "cuda":
                torch.cuda.empty_cache()

    def _compute(self, item: _Work, done: list) -> None:
        item.micro.seed(item.part.key)
        with autocast(self.precision, self.world.device), naming(item.micro.batch):
            loss = item.part.loss(item.micro)
        if loss.loss is not None:
            loss.loss.backward()
            loss.loss = loss.loss.detach()
        self.statistics.collect(len(item.micro.batch.utterances))
        done.append((item, loss))

    def _halves(self, item: _Work) -> list[_Work]:
        micro = item.micro
        name = micro.batch.utterances[0]
        if micro.kept is not None:
            raise UserError(
                f"{item.part.source} does not fit the memory of {self.world.device}, and what it works on "
                "was kept from an earlier turn and cannot be split any more; use smaller micro-batches "
                f"(--frames_per_micro_batch; this one has {len(micro.batch.utterances)} utterances, "
                f"{name!r} first)"
            )
        if len(micro.batch.utterances) == 1:
            raise UserError(
                f"utterance {name!r} alone does not fit the memory of {self.world.device}; use a larger GPU, "
                "a smaller model, or drop long utterances (--max_duration)"
            )
        self.on_split(*micro.number[:2], micro.batch.utterances)
        halves = []
        start = 0
        for piece, batch in enumerate(micro.batch.split()):
            keys = None if micro.keys is None else micro.keys[start : start + len(batch.utterances)]
            start += len(batch.utterances)
            halves.append(
                _Work(item.part, MicroBatch(batch, micro.totals, keys, (*micro.number, piece), micro.seeds))
            )
        return halves

    def _apply(self, turn: Turn, results: list[tuple[_Work, Loss]]) -> Update:
        """Clip and update, unless something is not finite."""
        losses = [loss.loss.float() for _, loss in results if loss.loss is not None]
        total = torch.stack(losses).sum() if losses else torch.zeros((), device=self.world.device)
        updaters = [self.method.updaters[name] for name in turn.updaters]
        norms = [
            torch.nn.utils.clip_grad_norm_(group, updater.grad_clip)
            for updater in updaters
            for group in updater.groups.values()
        ]
        values = torch.stack(
            [self.world.sum(total), *(norm.float().to(self.world.device) for norm in norms)]
        ).tolist()
        finite = all(abs(value) < float("inf") for value in values)  # false for nan too
        if finite:
            for updater in updaters:
                updater.optimizer.step()
        with warnings.catch_warnings() if not finite else contextlib.nullcontext():
            if not finite:
                # torch misses the optimiser's step; the schedule goes by steps of the training all the same.
                warnings.simplefilter("ignore", UserWarning)
            for updater in updaters:
                updater.at_work = True
                if updater.scheduler is not None and not updater.by_epoch:
                    updater.scheduler.step()
        figures: Figures = {}
        for _, loss in results:
            for name, (amount, weight) in loss.figures.items():
                had = figures.get(name, (0.0, 0.0))
                figures[name] = (had[0] + amount, had[1] + weight)
        update = Update(figures, finite, max(values[1:], default=0.0))
        if not finite:
            bad = [w for w, loss in results if loss.loss is not None and not bool(loss.loss.isfinite())]
            bad = bad or [w for w, _ in results]
            update.bad = [u for w in bad for u in w.micro.batch.suspects()]
            update.bad_batches = [w.micro.batch for w in bad]
            update.norm = next((v for v in values if not abs(v) < float("inf")), float("nan"))
            update.figures = {}
        return update


class _only:
    """Inside, of ``everything`` only ``parameters`` receive gradient."""

    def __init__(self, parameters: list, everything: list):
        wanted = {id(p) for p in parameters}
        self.others = [p for p in everything if id(p) not in wanted and p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.others:
            parameter.requires_grad_(False)

    def __exit__(self, *_) -> None:
        for parameter in self.others:
            parameter.requires_grad_(True)
