"""The training loop. A method supplies turns; batches, updates, checkpoints, signals, logs are the loop's."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.progress import progress as progress_bar
from espnet_ext.train import checkpoint, resume
from espnet_ext.train.batches import plan_sorted
from espnet_ext.train.data import SpeechData
from espnet_ext.train.history import History, Means
from espnet_ext.train.loaders import loaders_watched
from espnet_ext.train.memory import find_micro_batch
from espnet_ext.train.method import Figures, Method, MicroBatch, Position
from espnet_ext.train.nbest import BestModels
from espnet_ext.train.runner import StepRunner, Update, naming
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream, StreamStep
from espnet_ext.train.world import World

#: Seconds after which a save that failed (a full disk) is tried again.
RETRY_SAVE = 60.0
#: Present in the folder of a finished training, and in no other.
SUMMARY = "train_summary.json"


@dataclass
class TrainerOptions:
    """How to train; the YAML holds the same names, with a comment each."""

    max_epoch: int
    frames_per_validation_batch: int = 0  # 0: as a micro-batch of the main stream
    seed: int = 0
    auto_micro_batch: bool = False
    precision: str = "fp32"
    keep_nbest_models: int = 10
    best_model_criterion: tuple[tuple[str, str, str], ...] = (("valid", "acc", "max"),)
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    max_skipped_steps: int = 20
    log_interval: int = 50
    num_workers: int = 1
    use_tensorboard: bool = False
    resume: bool = True


@dataclass
class Progress:
    """Where a training stands; everything but tensors that a checkpoint needs."""

    epoch: int = 1  # the epoch that is under way
    step_in_epoch: int = 0  # steps of it that are done
    step: int = 0  # steps done in all
    seconds: float = 0.0  # spent training, over all runs
    skipped: int = 0  # updates in a row without a finite loss and gradient
    skipped_in_all: int = 0
    splits: int = 0  # micro-batches that had to be cut for want of memory
    batches: dict = field(default_factory=dict)  # optimiser steps' worth of data used so far, by stream
    frames: dict = field(default_factory=dict)  # feature frames used so far, by stream
    means: dict = field(default_factory=dict)  # of the epoch so far, see Means


class Trainer:
    """Trains by a method, from streams, alone or with other processes.

    Args:
        options: see there.
        method: what is trained, and how.
        streams: training data by name.
        valid: validation data.
        folder: the experiment.
        world: the processes; alone by default.
        seconds_per_unit: duration of a sample (or stored frame) of the main stream, for the throughput; None
            where it is not known.
        stop: signals are watched for since it was entered; None watches while `run` runs.
    """

    def __init__(
        self,
        options: TrainerOptions,
        method: Method,
        streams: Mapping[str, Stream],
        valid: SpeechData,
        folder: Path,
        world: World | None = None,
        seconds_per_unit: float | None = None,
        stop: StopRequest | None = None,
    ):
        self.options, self.method, self.streams, self.folder = options, method, dict(streams), folder
        self.world = world or World()
        self.seconds_per_unit = seconds_per_unit
        self.valid = Stream("valid", valid, self.streams[method.main_stream].frame_shift, 1)
        self.progress = Progress()
        self.history = History(folder)
        self.runner = StepRunner(
            method, self.streams, self.world, options.seed, options.precision, self._note_split
        )
        if options.auto_micro_batch:
            find_micro_batch(method, self.streams, self.runner, self.world, folder)
        self.best = [
            BestModels(
                folder / name,
                method.modules[each.module],
                each.criteria or options.best_model_criterion,
                options.keep_nbest_models,
            )
            for name, each in method.nbest().items()
        ]
        self.stop = StopRequest() if stop is None else stop  # one that nobody has asked is false

    def run(self) -> int:
        """Train to the last epoch.

        Returns:
            0 when done, 75 when a signal asked to stop (run the same command again to go on).

        Raises:
            UserError: too many updates in a row had no finite loss and gradient; options that do not fit the
                checkpoint; a loader process that was killed.
        """
        with self.stop, loaders_watched():
            self._restore()
            self._started = time.monotonic() - self.progress.seconds
            self._last_save = time.monotonic()
            if self.world.any(bool(self.stop))[0]:
                self._say(
                    f"{self.stop.name or 'asked to stop'} before the first step; run the same command again"
                )
                return RUN_AGAIN
            try:
                while self._epochs_left():
                    asked = not self._train_epoch()
                    if asked:
                        self._save()
                    else:
                        self._finish_epoch()
                        asked = self.world.any(bool(self.stop))[0] and self._epochs_left()
                    if asked:
                        self._say(
                            f"{self.stop.name or 'another process was asked to stop'}: saved at step "
                            f"{self.progress.step}; run the same command again"
                        )
                        return RUN_AGAIN
            finally:
                for stream in self.streams.values():
                    stream.close()
        self._check_updates()
        if self.world.first:
            self._write_summary()
        self.world.wait()
        return 0

    def _epochs_left(self) -> bool:
        return self.progress.epoch <= self.options.max_epoch

    def _train_epoch(self) -> bool:
        """Go through what is left of the epoch; False if a signal ended it before its last step."""
        progress, options = self.progress, self.options
        steps = self._epoch_steps = self.method.epoch_steps(progress.epoch, self.streams)
        self._recent, self._recent_since = Means(), (time.monotonic(), 0)
        self.method.train()
        left = range(progress.step_in_epoch, steps)
        # In a log the lines of `_log` say how far it is.
        if self.world.first and sys.stderr.isatty():
            left = progress_bar(left, desc=f"epoch {progress.epoch}", unit="step")
        for _ in left:
            self._step()
            stop, save = self.world.any(bool(self.stop), self._save_is_due())
            if progress.step % options.log_interval == 0:
                self._log()
            if stop:
                return False
            if save and progress.step_in_epoch < steps:
                self._try_to_save()
        return True

    def _step(self) -> None:
        """One step: every turn of the method, in order, each stream read once."""
        progress = self.progress
        position = Position(progress.epoch, progress.step_in_epoch, progress.step)
        data: dict[str, StreamStep] = {}
        kept: dict[str, list] = {}
        skipped = progress.skipped
        for turn in self.method.turns(position):
            for part in turn.parts:
                if part.source in self.streams and part.source not in data:
                    data[part.source] = self._read(part.source)
            update = self.runner.run(turn, data, kept, position)
            if update.finite:
                self._add(update.figures)
                name = "grad_norm" if len(self.method.updaters) == 1 else f"grad_norm_{turn.name}"
                # Every process knows the whole norm.
                self._add({name: (update.norm / self.world.size, 1.0 / self.world.size)})
            else:
                self._skip(turn.name, update)
        if progress.skipped == skipped:  # one side's updates do not make up for the other's
            progress.skipped = 0
        self._add(self.method.after_step(position))
        progress.step += 1
        progress.step_in_epoch += 1

    def _read(self, name: str) -> StreamStep:
        step = self.streams[name].next()
        progress = self.progress
        progress.batches[name] = progress.batches.get(name, 0) + 1
        progress.frames[name] = progress.frames.get(name, 0) + step.totals.frames
        if name == self.method.main_stream:
            self._recent_since = (self._recent_since[0], self._recent_since[1] + step.samples)
        return step

    def _add(self, figures: Figures) -> None:
        self.means.add(figures)
        self._recent.add(figures)

    def _skip(self, turn: str, update: Update) -> None:
        """Count an update that was not made; too many in a row end the training, their last batch saved."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_all += 1
        names = " ".join(update.bad)
        print(
            f"step {progress.step + 1} skipped ({turn}): loss or gradient norm is {update.norm}; "
            f"utterances {names}",
            flush=True,
        )
        if progress.skipped < self.options.max_skipped_steps:
            return
        path = self.folder / ("bad_batch.pth" if self.world.first else f"bad_batch.{self.world.rank}.pth")
        with atomic_path(path) as temporary:
            checkpoint.save_tensors(
                [{"utterances": b.utterances, "tensors": b.tensors} for b in update.bad_batches], temporary
            )
        raise UserError(
            f"{progress.skipped} steps in a row without a finite loss and gradient; the last batch is in "
            f"{path}, its utterances in the log above: check their audio and text, or lower the learning rate"
        )

    def _check_updates(self) -> None:
        """A training too short for `max_skipped_steps` in a row fails if it skipped every step."""
        progress = self.progress
        if progress.skipped and progress.skipped >= progress.step:
            raise UserError(
                f"{self.folder}: none of the {progress.step} steps had a finite loss and gradient, the "
                "model is as it was; the log names their utterances: check their audio and text, or lower "
                "the learning rate, and remove the folder"
            )

    def _check_parameters(self) -> None:
        """A step whose gradient was finite may still have led to a model that is not."""
        for module, each in self.method.modules.items():
            for name, parameter in each.named_parameters():
                if not bool(parameter.isfinite().all()):
                    raise UserError(
                        f"{self.folder}: {module}: {name} is not finite at step {self.progress.step}: the "
                        "training has diverged; lower the learning rate and begin anew"
                    )

    def _note_split(self, step: int, number: int, utterances: list[str]) -> None:
        self.progress.splits += 1
        print(
            f"step {step + 1}: micro-batch {number} of {len(utterances)} utterances did not fit the memory "
            "and is computed in halves; a smaller --frames_per_micro_batch saves the time of the retry",
            flush=True,
        )

    def _finish_epoch(self) -> None:
        """Validate, record the epoch, keep the n best models, save."""
        progress, options = self.progress, self.options
        self._check_parameters()
        row = {"epoch": progress.epoch, "step": progress.step, "seconds": round(self._seconds(), 1)}
        row |= {f"train_{name}": value for name, value in self._global(self.means).means().items()}
        row |= {f"valid_{name}": value for name, value in self.validate().items()}
        row |= self._rates()
        for best in self.best:
            best.check([*self.history.rows, row])
        for updater in self.method.updaters.values():
            updater.end_epoch()
        self.history.add(row, write=self.world.first)
        if self.world.first:
            for best in self.best:
                best.save(progress.epoch)
                best.rank(self.history)
        figures = " ".join(f"{name}={value:.4g}" for name, value in row.items() if name.startswith("valid_"))
        self._say(f"epoch {progress.epoch}/{options.max_epoch} done, {figures}")
        progress.epoch += 1
        progress.step_in_epoch, self.means = 0, Means()
        self._save()
        if self.world.first:
            for best in self.best:
                best.forget()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means of the method's figures over the validation data, without dropout and masks."""
        self.method.train(False)
        means = Means()
        main = self.streams[self.method.main_stream]
        budget = self.options.frames_per_validation_batch or main.frames_per_micro_batch
        budget = budget or -(-main.frames_per_step // self.world.size)
        plan = plan_sorted(self.valid.lengths, budget)
        own = plan[self.world.rank :: self.world.size]
        for batch in self.valid.data.batches(own, self.options.num_workers, self.world.device):
            with naming(batch):
                means.add(self.method.validate(MicroBatch(batch, self.valid.totals(batch.utterances), None)))
        return self._global(means).means()

    def _global(self, means: Means) -> Means:
        return Means(self.world.sum_by_name(means.state()))

    def _rates(self) -> dict[str, float]:
        updaters = self.method.updaters
        return {"lr" if len(updaters) == 1 else f"lr_{n}": each.lr for n, each in updaters.items()}

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _say(self, text: str) -> None:
        if self.world.first:
            print(text, flush=True)

    def _log(self) -> None:
        figures = self._global(self._recent).means()
        progress, (since, samples) = self.progress, self._recent_since
        now = time.monotonic()
        self._recent, self._recent_since = Means(), (now, 0)
        if not self.world.first:
            return
        done = (progress.epoch - 1 + progress.step_in_epoch / self._epoch_steps) / self.options.max_epoch
        words = [f"{name}={value:.4g}" for name, value in figures.items()]
        words += [f"{name}={value:.3g}" for name, value in self._rates().items()]
        if self.seconds_per_unit and samples:
            words.append(f"{samples * self.seconds_per_unit / (now - since):.0f} h/h")
        if self.world.device.type == "cuda":
            words.append(f"{torch.cuda.max_memory_reserved(self.world.device) / 2**30:.1f} GiB")
        left = self._seconds() / done * (1 - done)
        self._say(
            f"epoch {progress.epoch}/{self.options.max_epoch} "
            f"step {progress.step_in_epoch}/{self._epoch_steps} {' '.join(words)} left {left / 60:.1f} min"
        )
        self.history.log(progress.step, figures | self._rates())

    def _save_is_due(self) -> bool:
        """As this process sees it; what the first one's clock says counts."""
        steps = self.options.checkpoint_steps
        return bool(steps and self.progress.step % steps == 0) or (
            self.world.first and time.monotonic() - self._last_save > 60 * self.options.checkpoint_minutes
        )

    def _try_to_save(self) -> None:
        """Save inside an epoch; a full disk is reported and does not end the training."""
        try:
            self._save()
        except OSError as error:
            print(f"warning: no checkpoint was written: {error}; the training goes on", flush=True)
            self._last_save = time.monotonic() - 60 * self.options.checkpoint_minutes + RETRY_SAVE

    def _save(self) -> None:
        means = self._global(self.means).state()
        self.progress.seconds = self._seconds()
        self._last_save = time.monotonic()
        if not self.world.first:
            return
        checkpoint.save(
            {
                "modules": {name: module.state_dict() for name, module in self.method.modules.items()},
                "updaters": {name: updater.state() for name, updater in self.method.updaters.items()},
                "streams": {name: dict(stream.position) for name, stream in self.streams.items()},
                "method": self.method.state(),
                "progress": {**vars(self.progress), "means": means},
                "history": self.history.rows,
                "run": self._circumstances(),
            },
            self.folder,
        )

    def _circumstances(self) -> dict:
        options = self.options
        return resume.circumstances(
            options.seed, options.precision, self.world, self.streams, self.method.modules
        )

    def _restore(self) -> None:
        state = checkpoint.load(self.folder) if self.options.resume else None
        if not self.options.resume and self.world.first and checkpoint.remove(self.folder):
            self._say(
                f"{self.folder}: begins anew without --resume true; the checkpoint that was there is gone"
            )
        rows = []
        left = max((best.latest() for best in self.best), default=0)
        finished = left and (self.folder / SUMMARY).exists()
        # The model of epoch 1 is older than its checkpoint.
        if self.options.resume and state is None and (left > 1 or finished):
            raise UserError(
                f"{self.folder}: has the model of epoch {left}, but no checkpoint to go on from; put it "
                "back, or move the folder away to begin anew"
            )
        if state is not None:
            parts = self.method.modules, self.method.updaters, self.streams
            told = resume.take(self.folder, state, self._circumstances(), *parts)
            self.method.load_state(state["method"])
            self.progress = Progress(**state["progress"])
            rows = state["history"]
            for best in self.best:
                best.check(rows)
            for line in (*told, f"resumed at epoch {self.progress.epoch}, step {self.progress.step}"):
                self._say(line)
        # The sums so far are everybody's; one process goes on with them.
        self.means = Means(self.progress.means if self.world.first else {})
        self.history = History(
            self.folder, rows, self.options.use_tensorboard and self.world.first, self.progress.step
        )
        for stream in self.streams.values():
            stream.num_workers = self.options.num_workers
        if self.world.first:
            for folder in {self.folder, *(best.folder for best in self.best)}:
                if self._epochs_left():  # that of an older or a shorter training says that it is finished
                    (folder / SUMMARY).unlink(missing_ok=True)
            self.history.write()
            for best in self.best:
                best.resume(self.history, self.progress.epoch - 1)
        self.world.wait()

    def _write_summary(self) -> None:
        """What the report says about a finished training; its presence says that it is finished."""
        progress = self.progress
        summary = {
            "epochs": progress.epoch - 1,  # more than max_epoch where that was lowered
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "seed": self.options.seed,
            "parameters": sum(p.numel() for p in self.method.modules["model"].parameters())
            if "model" in self.method.modules
            else None,
            "batches": progress.batches,
            "frames": progress.frames,
            "labelled_batches": progress.batches.get("labelled", 0),
            "skipped_steps": progress.skipped_in_all,
            "split_micro_batches": progress.splits,
            "processes": self.world.size,
            **self.method.summary(),
        }
        atomic_write_text(self.folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
