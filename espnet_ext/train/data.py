"""From a dumped data directory to batches of tensors."""

import atexit
import contextlib
import functools
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import ESPnetDataset

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.train.ahead import ahead
from espnet_ext.train.keys import key
from espnet_ext.train.sound import Recordings

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
class Batch:
    """A micro-batch on its device."""

    utterances: list[str]
    tensors: dict[str, torch.Tensor]  # speech (B, N), speech_lengths (B,), text (B, U), text_lengths (B,)

    def split(self) -> tuple["Batch", "Batch"]:
        """Two halves of at least one utterance each, for a memory that the whole does not fit.

        Raises:
            ValueError: there is only one utterance.
        """
        middle = len(self.utterances) // 2
        if not middle:
            raise ValueError("one utterance cannot be split")
        return tuple(
            Batch(self.utterances[part], {name: tensor[part] for name, tensor in self.tensors.items()})
            for part in (slice(middle), slice(middle, None))
        )


def read_shapes(path: str | Path) -> dict[str, int]:
    """First dimension of every utterance in a shape file (`<utterance> <length>[,<dim>]`).

    Raises:
        UserError: an absent file, or a line of another form.
    """
    shapes = {}
    for number, line in read_lines(path):
        fields = line.split()
        try:
            utterance, shape = fields
            shapes[utterance] = int(shape.split(",")[0])
        except ValueError:
            raise UserError(
                f"{path}:{number}: expected `<utterance> <length>`, found {line!r}; rerun stage stats"
            ) from None
    return shapes


class KeyedPreprocess:
    """ESPnet's preprocessor, its noise, rooms and effects drawn by (seed, pass, utterance).

    ESPnet draws from the loader process's global generators, so that an utterance's augmentation depends on
    the number of processes and on what was loaded before it.

    Args:
        preprocess: ESPnet's preprocessor.
        seed: key of the augmentation.
        lengths: samples (or frames) of each utterance. One of another length raises ValueError: recordings
            are read where they lie, and one that was replaced is not what its transcript belongs to.
    """

    def __init__(self, preprocess: Callable, seed: int, lengths: Mapping[str, int] | None = None):
        self.preprocess, self.seed, self.lengths = preprocess, seed, lengths or {}
        self.passes = 0  # which pass over the data is under way

    def __call__(self, utterance: str, data: dict) -> dict:
        speech, expected = data.get("speech"), self.lengths.get(utterance)
        if speech is not None and expected is not None and len(speech) != expected:
            raise ValueError(f"its length is {len(speech)} and was {expected}")
        number = key(self.seed, "preprocess", self.passes, utterance)
        # A loader process has no other use for them; elsewhere they are somebody else's.
        before = (np.random.get_state(), random.getstate()) if _main_process() else None
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            data = self.preprocess(utterance, data)
        finally:
            if before is not None:
                np.random.set_state(before[0])
                random.setstate(before[1])
        speech = data.get("speech")
        if speech is not None and speech.ndim == 2 and speech.shape[1] == 1:
            data["speech"] = speech[:, 0]  # mixing noise in leaves a channel axis of one
        return data


def _main_process() -> bool:
    return torch.utils.data.get_worker_info() is None


class _Readable(torch.utils.data.Dataset):
    """A dataset whose failures name the utterance and the file, also out of a loader process."""

    def __init__(self, dataset: ESPnetDataset, preprocess: "KeyedPreprocess", source: str):
        self.dataset, self.preprocess, self.source = dataset, preprocess, source

    def __getitem__(self, item: tuple[int, str]):
        self.preprocess.passes, utterance = item
        try:
            return self.dataset[utterance]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.source}: utterance {utterance!r} cannot be read ({_reason(error)}); was its file "
                "moved or changed? run stage 3 (features) again, with --force, and those after it"
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


def _reason(error: Exception) -> str:
    """One line about an error, even one whose text cannot be made (soundfile's, out of its own library)."""
    try:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    except Exception:
        return type(error).__name__


class SpeechData:
    """The utterances of a data directory that are usable for training, by name.

    Args:
        data_dir: dumped directory (stage 3), with `text` and `wav.scp` or `feats.scp`.
        stats_dir: lengths (stage 5); only utterances listed there are used.
        preprocess: ESPnet's preprocessor, which augments the audio and turns the transcript into labels.
        seed: key of the augmentation.
        text: whether transcripts are wanted.
    """

    def __init__(self, data_dir: str, stats_dir: str, preprocess: Callable, seed: int = 0, text: bool = True):
        data_dir, stats_dir = Path(data_dir), Path(stats_dir)
        self.lengths: Mapping[str, int] = read_shapes(stats_dir / "speech_shape")
        self.labels: Mapping[str, int] = read_shapes(stats_dir / "text_shape") if text else {}
        if not self.lengths:
            raise UserError(f"{stats_dir}/speech_shape: holds no utterance; is {data_dir} empty?")
        raw = (data_dir / "wav.scp").exists()
        speech = (
            (str(data_dir / "wav.scp"), "speech", "sound")
            if raw
            else (
                str(data_dir / "feats.scp"),
                "speech",
                "kaldi_ark",
            )
        )
        sources = [speech] + ([(str(data_dir / "text"), "text", "text")] if text else [])
        self.preprocess = KeyedPreprocess(preprocess, seed, self.lengths)
        try:
            # max_cache_fd 0: a shared file position corrupts Kaldi archives once loader processes are forked.
            dataset = ESPnetDataset(sources, preprocess=self.preprocess, max_cache_fd=0)
        except (RuntimeError, ValueError) as error:  # an utterance twice, or bytes that are no text
            raise UserError(f"{data_dir}: {_reason(error)}; run stage 3 (features) again") from None
        if raw:
            dataset.loader_dict["speech"] = Recordings(dataset.loader_dict["speech"], self.lengths)
        self.dataset = _Readable(dataset, self.preprocess, speech[0])
        present = set(dataset.loader_dict["speech"].keys())
        needed = [(present, speech[0])]
        if text:
            needed += [(dataset.loader_dict["text"], sources[1][0]), (self.labels, stats_dir / "text_shape")]
        for there, where in needed:
            missing = [utterance for utterance in self.lengths if utterance not in there]
            if missing:
                raise UserError(
                    f"{stats_dir}/speech_shape: {len(missing)} utterances are not in {where}, "
                    f"the first is {missing[0]!r}; rerun stage stats"
                )
        self.collate = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    def batches(
        self,
        order: Iterable[tuple[str, ...]],
        num_workers: int,
        device: torch.device | str = "cpu",
        passes: int = 0,
    ) -> Iterator[Batch]:
        """Load batches of one pass over the data in the given order; see `load`."""
        return self.load(((passes, utterances) for utterances in order), num_workers, device)

    def load(
        self,
        order: Iterable[tuple[int, tuple[str, ...]]],
        num_workers: int,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """Load batches in the given order, ahead of time in ``num_workers`` processes.

        Args:
            order: (pass over the data, for the keys of the augmentation; utterances) of every batch. It may
                be endless: it is read only as far as the loader runs ahead.
            num_workers: loader processes; 0 loads in this one. They change no result.
            device: where the tensors go.
        """
        pinned = str(device).startswith("cuda")
        collate = _Compact(self.collate, 2**16 if pinned else float("inf")) if num_workers else self.collate
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=([(passes, u) for u in utterances] for passes, utterances in order),
            collate_fn=collate,
            num_workers=num_workers,
            worker_init_fn=functools.partial(_begin_loader, os.getpid()),
            prefetch_factor=4 if num_workers else None,
            # Loading draws nothing; a generator of its own keeps the loader off the global one.
            generator=torch.Generator().manual_seed(0),
            pin_memory=pinned,
        )
        for utterances, tensors in self._plainly(loader):
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
            yield Batch(list(utterances), moved)

    @staticmethod
    def _plainly(loader: Iterable) -> Iterator:
        """Without the traceback that torch puts around a message out of a loader process."""
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
