"""From a dumped data directory to batches of tensors."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import ESPnetDataset

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.train.keys import key
from espnet_ext.train.loaders import load_ahead
from espnet_ext.train.sound import Recordings


@dataclass
class Batch:
    """A micro-batch on its device."""

    utterances: list[str]
    tensors: dict[str, torch.Tensor]  # speech (B, N), speech_lengths (B,), text (B, U), text_lengths (B,)

    def about(self) -> str:
        """Which utterances these are, for messages: of several the shortest, if there are lengths."""
        count = len(self.utterances)
        if count == 1:
            return f"utterance {self.utterances[0]}"
        if "speech_lengths" not in self.tensors:
            names = ", ".join(self.utterances[:5])
            return f"utterances {names}{f' and {count - 5} more' if count > 5 else ''}"
        shortest = self.utterances[int(self.tensors["speech_lengths"].argmin())]
        return f"{count} utterances were computed at once, {shortest} is the shortest of them"

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

    def suspects(self) -> list[str]:
        """Utterances with a tensor that is not finite; all of them where each is."""
        finite = torch.ones(len(self.utterances), dtype=torch.bool)
        for tensor in self.tensors.values():
            if tensor.is_floating_point() and len(tensor) == len(finite):
                finite &= tensor.flatten(1).isfinite().all(1).cpu()
        return [u for u, good in zip(self.utterances, finite.tolist(), strict=True) if not good] or list(
            self.utterances
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
        file, kind = ("wav.scp", "sound") if raw else ("feats.scp", "kaldi_ark")
        speech = (str(data_dir / file), "speech", kind)
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
        batches = ([(passes, u) for u in utterances] for passes, utterances in order)
        pinned = str(device).startswith("cuda")
        for utterances, tensors in load_ahead(self.dataset, batches, self.collate, num_workers, pinned):
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
            yield Batch(list(utterances), moved)
