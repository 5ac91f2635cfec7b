"""The training loop. A method supplies an objective; batches, clipping, checkpoints and logs are the loop's.

Legend: B batch.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.progress import progress as progress_bar
from espnet_ext.train import checkpoint
from espnet_ext.train.batches import Step, plan_epoch, plan_sorted
from espnet_ext.train.data import Batch, SpeechData
from espnet_ext.train.history import History, Means
from espnet_ext.train.keys import key, seed_torch
from espnet_ext.train.signals import StopRequest


@dataclass
class TrainerOptions:
    """How to train; the YAML holds the same names, with a comment each."""

    max_epoch: int
    frames_per_step: int
    frames_per_micro_batch: int
    seed: int = 0
    grad_clip: float = 5.0
    keep_nbest_models: int = 10
    best_model_criterion: tuple[str, str, str] = ("valid", "acc", "max")
    checkpoint_minutes: float = 10.0
    max_skipped_steps: int = 20
    log_interval: int = 50
    num_workers: int = 1
    device: str = "cpu"
    use_tensorboard: bool = False
    resume: bool = True


@dataclass
class Totals:
    """Denominators of one optimiser step, over all its micro-batches."""

    utterances: int
    labels: int


class Objective(Protocol):
    """What a method has to bring: a loss of a micro-batch, and figures to log."""

    def __call__(
        self, batch: Batch, totals: Totals, augment_keys: list[int] | None
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor | float, float]]]:
        """Return the micro-batch's share of the step's loss (a tensor) and `name: (sum, weight)` to log."""


@dataclass
class Progress:
    """Where a training stands; everything but tensors that a checkpoint needs."""

    epoch: int = 1  # the epoch that is under way
    step_in_epoch: int = 0  # optimiser steps of it that are done
    step: int = 0  # optimiser steps done in all
    seconds: float = 0.0  # spent training, over all sessions
    skipped: int = 0  # steps in a row without a finite gradient
    skipped_in_all: int = 0
    means: dict = field(default_factory=dict)  # of the epoch so far, see Means


class Trainer:
    """Trains one model with one optimiser on one labelled stream.

    Args:
        model: the module whose parameters are trained; saved under its own parameter names.
        objective: the method's loss.
        optimizer: over the model's parameters.
        make_scheduler: (optimizer, total steps) → per-step schedule, or None.
        train, valid: data.
        frame_shift: samples a frame, so that budgets are in frames (1 for stored features).
        folder: the experiment.
    """

    def __init__(
        self,
        options: TrainerOptions,
        model: torch.nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        make_scheduler: Callable,
        train: SpeechData,
        valid: SpeechData,
        frame_shift: int,
        folder: Path,
    ):
        self.options, self.model, self.objective, self.optimizer = options, model, objective, optimizer
        self.train_data, self.valid_data, self.folder = train, valid, folder
        self.lengths = {utterance: -(-length // frame_shift) for utterance, length in train.lengths.items()}
        self.valid_lengths = {
            utterance: -(-length // frame_shift) for utterance, length in valid.lengths.items()
        }
        self.progress = Progress()
        self.history = History(folder)
        # All epochs are planned ahead: the schedule ends with the last step, wherever that is.
        self.steps_before = [0]
        for epoch in range(1, options.max_epoch + 1):
            self.steps_before.append(self.steps_before[-1] + len(self._plan(epoch)))
        self.scheduler = make_scheduler(optimizer, self.steps_before[-1])
        self.stop = StopRequest()

    def _plan(self, epoch: int) -> list[Step]:
        o = self.options
        return plan_epoch(self.lengths, o.frames_per_step, o.frames_per_micro_batch, o.seed, epoch)

    def run(self) -> int:
        """Train to the last epoch.

        Returns:
            0 when done, 75 when a signal asked to stop (run the same command again to go on).

        Raises:
            UserError: too many steps in a row had no finite gradient.
        """
        with self.stop:
            self._restore()
            self.started = time.monotonic() - self.progress.seconds
            self.last_save = time.monotonic()
            while self.progress.epoch <= self.options.max_epoch:
                if not self._train_epoch():
                    self._save()
                    step = self.progress.step
                    print(f"{self.stop.name}: saved at step {step}; run the same command again", flush=True)
                    return RUN_AGAIN
                self._finish_epoch()
        self._write_summary()
        return 0

    def _train_epoch(self) -> bool:
        """Go through what is left of the epoch; False if a signal ended it before its last step."""
        progress, options = self.progress, self.options
        plan = self._plan(progress.epoch)[progress.step_in_epoch :]
        recent = Means()
        batches = self.train_data.batches(
            (micro for step in plan for micro in step.micro_batches),
            options.num_workers,
            options.device,
            passes=progress.epoch,
        )
        self.model.train()
        # In a log the lines of `_log` say how far it is.
        in_terminal = sys.stderr.isatty()
        for step in progress_bar(plan, desc=f"epoch {progress.epoch}", unit="step") if in_terminal else plan:
            figures = self._step(step, batches)
            self.means.add(figures)
            recent.add(figures)
            progress.step += 1
            progress.step_in_epoch += 1
            if progress.step % options.log_interval == 0:
                self._log(recent.means())
                recent = Means()
            if self.stop:
                return False
            if time.monotonic() - self.last_save > 60 * options.checkpoint_minutes:
                self._save()
        return True

    def _step(self, step: Step, batches) -> dict:
        """One optimiser step over its micro-batches; returns figures to log."""
        progress, options = self.progress, self.options
        labels = self.train_data.labels
        utterances = step.utterances
        totals = Totals(len(utterances), sum(labels[u] for u in utterances) + len(utterances))
        self.optimizer.zero_grad(set_to_none=True)
        step_means: dict[str, tuple] = {}
        for number, micro_batch in enumerate(step.micro_batches):
            batch = next(batches)
            if tuple(batch.utterances) != micro_batch:
                raise RuntimeError(
                    f"loader gave {batch.utterances[:2]}..., the plan says {micro_batch[:2]}..."
                )
            augment_keys = [key(options.seed, "augment", progress.epoch, name) for name in batch.utterances]
            seed_torch(options.seed, "dropout", progress.step, number)
            loss, figures = self.objective(batch, totals, augment_keys)
            loss.backward()
            for name, (total, weight) in figures.items():
                had = step_means.get(name, (0.0, 0.0))
                step_means[name] = (had[0] + total, had[1] + weight)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.grad_clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            progress.skipped = 0
        else:
            progress.skipped += 1
            progress.skipped_in_all += 1
            print(
                f"step {progress.step + 1} skipped: gradient norm {norm}; utterances {' '.join(utterances)}",
                flush=True,
            )
            if progress.skipped >= options.max_skipped_steps:
                raise UserError(
                    f"{progress.skipped} steps in a row without a finite gradient; the last utterances "
                    "stand in the log above: check their audio and text, or lower the learning rate"
                )
            step_means = {}
        if self.scheduler is not None:
            self.scheduler.step()
        step_means["grad_norm"] = (float(norm), 1.0) if torch.isfinite(norm) else (0.0, 0.0)
        return step_means

    def _finish_epoch(self) -> None:
        """Validate, record the epoch, keep the n best models, save."""
        progress, options = self.progress, self.options
        row = {"epoch": progress.epoch, "step": progress.step, "seconds": round(self._seconds(), 1)}
        row |= {f"train_{name}": value for name, value in self.means.means().items()}
        row |= {f"valid_{name}": value for name, value in self.validate().items()}
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        self.history.add(row)
        with atomic_path(self.folder / f"{progress.epoch}epoch.pth") as temporary:
            torch.save(self.model.state_dict(), temporary)
        split, name, mode = options.best_model_criterion
        best = self.history.best(f"{split}_{name}", mode, options.keep_nbest_models)
        for path in self.folder.glob("*epoch.pth"):
            if int(path.name.removesuffix("epoch.pth")) not in best:
                path.unlink()
        atomic_write_text(
            self.folder / "nbest.json", json.dumps({"criterion": [split, name, mode], "epochs": best})
        )
        figures = " ".join(f"{name}={value:.4g}" for name, value in row.items() if name.startswith("valid_"))
        print(f"epoch {progress.epoch}/{options.max_epoch} done, {figures}", flush=True)
        progress.epoch += 1
        progress.step_in_epoch, self.means = 0, Means()
        self._save()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means of the objective's figures over the validation data, without dropout and masks."""
        self.model.eval()
        means = Means()
        plan = plan_sorted(self.valid_lengths, self.options.frames_per_micro_batch)
        labels = self.valid_data.labels
        for batch in self.valid_data.batches(plan, self.options.num_workers, self.options.device):
            totals = Totals(len(batch.utterances), sum(labels[u] + 1 for u in batch.utterances))
            _, figures = self.objective(batch, totals, None)
            means.add(figures)
        return means.means()

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _log(self, figures: dict[str, float]) -> None:
        progress = self.progress
        done = progress.step / self.steps_before[-1]
        left = self._seconds() / done * (1 - done)
        text = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        print(
            f"epoch {progress.epoch}/{self.options.max_epoch} step {progress.step}/{self.steps_before[-1]} "
            f"{text} lr={self.optimizer.param_groups[0]['lr']:.3g} left {left / 60:.1f} min",
            flush=True,
        )

    def _save(self) -> None:
        self.progress.seconds = self._seconds()
        self.progress.means = self.means.state()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "progress": vars(self.progress),
            "history": self.history.rows,
            "seed": self.options.seed,
        }
        checkpoint.save(state, self.folder)
        self.last_save = time.monotonic()

    def _restore(self) -> None:
        state = checkpoint.load(self.folder) if self.options.resume else None
        rows = []
        if state is not None:
            if state["seed"] != self.options.seed:
                raise UserError(
                    f"{self.folder}: was trained with seed {state['seed']}, not {self.options.seed}; "
                    "use another experiment (--tag) or remove the folder"
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            rows = state["history"]
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
                if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
                    # With a longer `max_epoch` the rate of the same step is another one: take it anew.
                    parts = zip(
                        self.optimizer.param_groups,
                        self.scheduler.base_lrs,
                        self.scheduler.lr_lambdas,
                        strict=True,
                    )
                    for group, peak, factor in parts:
                        group["lr"] = peak * factor(self.scheduler.last_epoch)
            print(f"resumed at epoch {self.progress.epoch}, step {self.progress.step}", flush=True)
        self.means = Means(self.progress.means)
        self.history = History(self.folder, rows, self.options.use_tensorboard)

    def _write_summary(self) -> None:
        """What the report says about a finished training; its presence says that it is finished."""
        progress = self.progress
        summary = {
            "epochs": self.options.max_epoch,
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "seed": self.options.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "labelled_batches": progress.step,
            "labelled_frames_per_epoch": sum(self.lengths.values()),
            "skipped_steps": progress.skipped_in_all,
        }
        atomic_write_text(self.folder / "train_summary.json", json.dumps(summary, indent=1) + "\n")
