"""What a method brings to the training loop: turns, losses, optimisers. The loop does the rest.

Legend: B batch.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler, AbsEpochStepScheduler

from espnet_ext.train.data import Batch
from espnet_ext.train.keys import key, seed_torch

#: What a part's `source` begins with when it reads what an earlier turn of the same step kept.
KEPT = "kept:"

#: Figures to log: `name: (sum, weight)`; what is logged is the total of sums over the total of weights.
Figures = dict[str, tuple[torch.Tensor | float, float]]


@dataclass(frozen=True)
class Totals:
    """Denominators of one optimiser step over all its micro-batches in all processes."""

    utterances: int
    labels: int  # with <eos>; 0 in a stream without transcripts
    frames: int  # feature frames, padding not counted


@dataclass
class MicroBatch:
    """What is computed at once. Its cut is for memory only: the totals are those of the whole step."""

    batch: Batch
    totals: Totals
    keys: list[int] | None  # one SpecAugment key an utterance; None masks nothing (validation)
    number: tuple[int, ...] = (0, 0)  # (step of the training, micro-batch of the step, pieces of it ...)
    seeds: tuple[int, ...] = (0,)  # first part of every key: the training's seed
    kept: object = None  # what the turn named by the part's source kept of this micro-batch

    def key(self, purpose: str) -> int:
        """A random key of its own for ``purpose``: (seed, step, micro-batch, purpose)."""
        return key(*self.seeds, "micro-batch", *self.number, purpose)

    def seed(self, purpose: str) -> None:
        """Seed torch's default generators, from which dropout draws, with the key of ``purpose``."""
        # The recogniser's own forward pass keeps the key that it has without any method.
        parts = ("dropout", *self.number) if purpose == "model" else ("dropout", *self.number, purpose)
        seed_torch(*self.seeds, *parts)


@dataclass
class Loss:
    """What a loss function returns for a micro-batch."""

    loss: torch.Tensor | None  # this micro-batch's share of the step's loss, with its gradient
    figures: Figures = field(default_factory=dict)
    kept: object = None  # detached; handed to the parts of later turns that follow this one
    # Called once the turn's micro-batches are all computed: for a method's own sums over steps. What is
    # computed again for want of memory, or in search of a micro-batch that fits, does not count.
    count: Callable[[], None] | None = None


@dataclass(frozen=True)
class Part:
    """A loss over the batches of one source.

    Args:
        source: a stream's name, or `kept:<turn>` for one micro-batch per thing that turn kept.
        loss: the loss function.
        key: purpose under which dropout is seeded before the loss is called.
    """

    source: str
    loss: Callable[[MicroBatch], Loss]
    key: str = "model"


@dataclass(frozen=True)
class Turn:
    """One update: the parts' gradients add up, then the named updaters step, and no other parameter moves."""

    name: str
    parts: tuple[Part, ...]
    updaters: tuple[str, ...]


@dataclass(frozen=True)
class Position:
    """Where the training stands before a step."""

    epoch: int  # from 1
    step_in_epoch: int  # from 0
    step: int  # from 0, over the whole training


class Updater:
    """An optimiser with its schedule and its clipping.

    Args:
        optimizer: over the parameters that it updates.
        scheduler: steps after every update, also after one that was skipped, or after every epoch where
            ESPnet has it so (`steplr`, say); or None.
        grad_clip: largest gradient norm of a clip group; 0 or less clips nothing.
        groups: clip groups by name, each clipped on its own; None is one group of all parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        grad_clip: float = 5.0,
        groups: Mapping[str, Sequence[torch.nn.Parameter]] | None = None,
    ):
        self.optimizer, self.scheduler = optimizer, scheduler
        self.by_epoch = isinstance(scheduler, AbsEpochStepScheduler) and not isinstance(
            scheduler, AbsBatchStepScheduler
        )
        self.at_work = False  # since the epoch began; the loop sets it
        self.grad_clip = grad_clip if grad_clip > 0 else float("inf")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.groups = {n: list(g) for n, g in groups.items()} if groups else {"": self.parameters}
        clipped = {id(p) for group in self.groups.values() for p in group}
        if clipped != {id(p) for p in self.parameters}:
            raise ValueError("the clip groups do not hold exactly the optimiser's parameters")

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def _schedule(self) -> str:
        return "none" if self.scheduler is None else type(self.scheduler).__name__

    def end_epoch(self) -> None:
        """Step a schedule that goes by epochs, if there were updates in this one."""
        if self.by_epoch and self.at_work:
            self.scheduler.step()
        self.at_work = False

    def state(self) -> dict:
        return {
            "kind": type(self.optimizer).__name__,
            "schedule": self._schedule,
            "at_work": self.at_work,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state(self, state: dict) -> list[str]:
        """Go on from what `state` returned.

        Returns:
            Options that were others then, in words. Those of the optimiser stay what they were; the rate is
            that of the schedule's options of now, where it is a function of the step.

        Raises:
            ValueError: it is that of another kind of optimiser or schedule, or of other parameters.
        """
        was, now = state.get("kind"), type(self.optimizer).__name__  # earlier versions did not say it
        if was not in (None, now):
            raise ValueError(f"{was} cannot go on as {now}")
        # Earlier versions did not say which.
        before = self._schedule if state["scheduler"] is not None else "none"
        was, now = state.get("schedule", before), self._schedule
        self.at_work = state.get("at_work", True)
        if was != now:
            raise ValueError(f"its schedule {was} cannot go on as {now}")
        told = self._not_taken(state)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is None or state["scheduler"] is None:
            return told
        rate = self.lr
        self.scheduler.load_state_dict(state["scheduler"])
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
            # With a longer `max_epoch` the rate of the same step is another one: take it anew.
            parts = zip(
                self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True
            )
            for group, peak, factor in parts:
                group["lr"] = peak * factor(self.scheduler.last_epoch)
        if self.lr != rate:
            told.append(f"its learning rate goes on at {self.lr:.4g} and was {rate:.4g}: another schedule")
        return told

    def _not_taken(self, state: dict) -> list[str]:
        """Options of optimiser and schedule that differ from those of `state`, which stay."""
        pairs = []
        for own, saved in zip(self.optimizer.param_groups, state["optimizer"]["param_groups"], strict=False):
            # A schedule sets `lr`; `initial_lr` is then what the options say.
            varying = {"params", "lr"} if "initial_lr" in own else {"params"}
            pairs += [(name, saved[name], own[name]) for name in own if name in saved and name not in varying]
        if self.scheduler is not None and state["scheduler"] is not None:
            options = inspect.signature(type(self.scheduler)).parameters
            own, saved = self.scheduler.state_dict(), state["scheduler"]
            pairs += [(name, saved[name], own[name]) for name in options if name in own and name in saved]
        words = [
            f"{name.removeprefix('initial_')} stays {was} and is not {now}"
            for name, was, now in pairs
            if name != "last_epoch" and was != now
        ]
        return list(dict.fromkeys(words))


@dataclass(frozen=True)
class NBest:
    """Which module's best epochs are kept.

    Args:
        module: its name in `Method.modules`.
        criteria: (split, figure, min or max) each; the best epochs of each are kept. None: the training's.
    """

    module: str = "model"
    criteria: tuple[tuple[str, str, str], ...] | None = None


class Method:
    """A way to train. Subclasses say which turns a step has and what their losses are.

    Attributes:
        modules: everything that has parameters or buffers, by name. `model` is the recogniser under its plain
            ESPnet names; critics, heads and peers are modules of their own, so that what is kept of the
            best epochs is plain.
        updaters: optimisers by name.
        main_stream: the stream whose passes are the epochs.
    """

    main_stream = "labelled"

    def __init__(self, modules: dict[str, torch.nn.Module], updaters: dict[str, Updater]):
        self.modules, self.updaters = modules, updaters

    def epoch_steps(self, epoch: int, streams: Mapping) -> int:
        """Number of loop steps of an epoch (from 1); by default the main stream's steps of that pass."""
        return streams[self.main_stream].steps(epoch)

    def turns(self, position: Position) -> Sequence[Turn]:
        """Turns of the step at ``position``, in order. Turns that name the same stream get the same batches.

        Depends on ``position`` and the configuration alone: it is also called out of turn.
        """
        raise NotImplementedError

    def kinds_of_steps(self) -> Sequence[Sequence[Turn]]:
        """One example of each different sequence of turns, for finding out whether they fit the memory."""
        return [self.turns(Position(1, 0, 0))]

    def validate(self, micro: MicroBatch) -> Figures:
        """Figures of a validation batch; called in evaluation mode and without gradient."""
        raise NotImplementedError

    def nbest(self) -> dict[str, NBest]:
        """Sub-folder of the experiment ("" is itself) → whose best epochs are kept there."""
        return {"": NBest()}

    def train(self, mode: bool = True) -> None:
        """Put all modules into training or evaluation mode; frozen teachers stay in the latter."""
        for module in self.modules.values():
            module.train(mode)

    def after_step(self, position: Position) -> Figures:
        """Called after each step: schedules and alarms of the method's own. Returns further figures."""
        return {}

    def state(self) -> dict:
        """Tensors and plain values that change during training and are not in modules and updaters."""
        return {}

    def load_state(self, state: dict) -> None:
        """Take over what `state` returned."""

    def summary(self) -> dict:
        """Further entries of `train_summary.json`."""
        return {}
