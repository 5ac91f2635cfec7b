"""The targets of a batch: stored embeddings that the loader reads, or teachers that hear the batch.

Legend: B batch, N samples, T frames, F size of a target, C codebooks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from espnet_ext.data.embeddings import EmbeddingStore
from espnet_ext.data.stored import AGAIN, read_arrays
from espnet_ext.distillation.clips import SetReader
from espnet_ext.distillation.combine import Combiner
from espnet_ext.distillation.frames import common_length, reduce_rate
from espnet_ext.distillation.teachers import Teacher
from espnet_ext.errors import UserError
from espnet_ext.train.data import Batch, SpeechData
from espnet_ext.train.keys import key

#: What the loader's items are called: a target of name x is `target_x`, the teachers' audio `clean`.
PREFIX, CLEAN = "target_", "clean"


@dataclass
class Target:
    """One target of a batch."""

    values: torch.Tensor  # (B, T, F) fp32, or (B, T, C) codes; beyond an utterance's frames anything
    lengths: torch.Tensor  # (B,)


class Targets(Protocol):
    """Where targets come from.

    Attributes:
        combiner: the rule.
        sizes: F of each target, or C * 256 where targets are codes.
    """

    combiner: Combiner
    sizes: Mapping[str, int]

    def attach(self, data: SpeechData, data_dir: str) -> None:
        """Have a set's loader bring what `batch` needs."""

    def frames(self, data_dir: str, utterance: str, samples: int) -> dict[str, int]:
        """Frames that each teacher has of an utterance."""

    def batch(self, batch: Batch) -> dict[str, Target]:
        """Targets of a batch by name, on its device."""


class _With(torch.utils.data.Dataset):
    """A dataset whose items have further entries."""

    def __init__(self, dataset, items):
        self.dataset, self.items = dataset, items

    def __getitem__(self, item: tuple[int, str]):
        utterance, data = self.dataset[item]
        return utterance, {**data, **self.items(*item)}


class StoredTargets:
    """Targets out of stores, one a teacher; the loader's processes read them.

    Args:
        stores: by the teacher's name.
        combiner: the rule; it reads the teachers that it has weights for.
        codes: targets are the codes of residual vector quantisation.
    """

    def __init__(self, stores: Mapping[str, EmbeddingStore], combiner: Combiner, codes: bool = False):
        self.stores, self.combiner, self.codes = dict(stores), combiner, codes
        self.keys: dict[tuple[str, str], dict[str, str]] = {}
        if codes:
            for store in self.stores.values():
                if not store.storage.startswith("rvq"):
                    raise UserError(f"{store.folder}: is stored as {store.storage}; loss: codes needs rvq")
        self.sizes = (
            {name: store.codec.row_bytes * 256 for name, store in self.stores.items()}
            if codes
            else combiner.sizes
        )

    def attach(self, data: SpeechData, data_dir: str) -> None:
        """See `Targets.attach`.

        Raises:
            UserError: a store lacks the set, or one of its utterances.
        """
        for name, store in self.stores.items():
            found = store.keys_of(data_dir)
            missing = [u for u in data.lengths if found.get(u) not in store]
            if missing:
                raise UserError(
                    f"{store.folder}: has no embeddings of {len(missing)} of {len(data.lengths)} utterances "
                    f"of {data_dir}, the first is {missing[0]!r}; {AGAIN}"
                )
            self.keys[data_dir, name] = {u: found[u] for u in data.lengths}
        data.dataset = _With(data.dataset, _Reader(self, data_dir))

    def frames(self, data_dir: str, utterance: str, samples: int) -> dict[str, int]:
        """See `Targets.frames`."""
        return {n: s.frames(self.keys[data_dir, n][utterance]) for n, s in self.stores.items()}

    def read(self, data_dir: str, passes: int, utterance: str) -> dict[str, np.ndarray]:
        """The loader's items of an utterance: of frames that all teachers have, whichever are read.

        A step's totals count these.
        """
        length = min(self.frames(data_dir, utterance, 0).values())
        names = self.combiner.chosen(passes, utterance)
        keys = {name: self.keys[data_dir, name][utterance] for name in names}
        if self.codes:
            return {PREFIX + n: self.stores[n].codes(k)[:length].astype(np.int64) for n, k in keys.items()}
        frames = {name: torch.from_numpy(self.stores[name].read(k)[:length]) for name, k in keys.items()}
        return {PREFIX + name: each.numpy() for name, each in self.combiner(frames).items()}

    def batch(self, batch: Batch) -> dict[str, Target]:
        """See `Targets.batch`."""
        tensors = batch.tensors
        return {
            name: Target(tensors[PREFIX + name], tensors[f"{PREFIX}{name}_lengths"]) for name in self.sizes
        }


class _Reader:
    """What the loader calls; travels to its processes."""

    def __init__(self, targets: StoredTargets, data_dir: str):
        self.targets, self.data_dir = targets, data_dir

    def __call__(self, passes: int, utterance: str) -> dict[str, np.ndarray]:
        return self.targets.read(self.data_dir, passes, utterance)


class LiveTargets:
    """Teachers that hear each batch's clean audio: no store, and a teacher's forward pass a step.

    Args:
        teachers: by name, on the training's device.
        factors: teacher frames that make one of the student's, by name.
        reductions: how, by name.
        combiner: the rule.
        rate: sample rate in Hz of the audio.
    """

    codes = False

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        factors: Mapping[str, int],
        reductions: Mapping[str, str],
        combiner: Combiner,
        rate: int,
    ):
        self.teachers, self.factors, self.reductions = dict(teachers), factors, reductions
        self.combiner, self.rate, self.sizes = combiner, rate, combiner.sizes

    def attach(self, data: SpeechData, data_dir: str) -> None:
        """See `Targets.attach`."""
        data.dataset = _With(data.dataset, CleanAudio(data_dir, self.rate))

    def frames(self, data_dir: str, utterance: str, samples: int) -> dict[str, int]:
        """See `Targets.frames`."""
        return {name: t.frames(samples) // self.factors[name] for name, t in self.teachers.items()}

    @torch.no_grad()
    def batch(self, batch: Batch) -> dict[str, Target]:
        """See `Targets.batch`. The draw of `random` goes by the pass that the loader notes."""
        audio = clean_audio(batch)
        passes = batch.tensors["pass"][:, 0].tolist()
        wanted = [self.combiner.chosen(p, u) for p, u in zip(passes, batch.utterances, strict=True)]
        frames: list[dict[str, torch.Tensor]] = [{} for _ in audio]
        for name, teacher in self.teachers.items():
            rows = [row for row, names in enumerate(wanted) if name in names]
            if rows:
                for row, each in zip(rows, teacher.embed([audio[r] for r in rows]), strict=True):
                    frames[row][name] = reduce_rate(each, self.factors[name], self.reductions[name])
        if self.combiner.rule == "random" and len(self.teachers) > 1:
            # Those who were not drawn have a say in which frames count, as in `StoredTargets.read`.
            for row, own in enumerate(frames):
                length = min(self.frames("", batch.utterances[row], len(audio[row])).values())
                frames[row] = {name: each[:length] for name, each in own.items()}
        targets = [self.combiner(each) for each in frames]
        device = batch.tensors["speech"].device
        found = {}
        for name in self.sizes:
            rows = [each[name] for each in targets]
            values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
            found[name] = Target(values, torch.tensor([len(row) for row in rows], device=device))
        return found


class CleanAudio:
    """The loader's items for teachers: an utterance's samples without the student's noise, and its pass.

    Args:
        data_dir: dumped directory.
        rate: sample rate in Hz.
    """

    def __init__(self, data_dir: str, rate: int):
        self.reader = SetReader(rate)
        self.clips = {clip.name: clip for clip in self.reader.clips(data_dir)}

    def __call__(self, passes: int, utterance: str) -> dict[str, np.ndarray]:
        return {CLEAN: self.reader.read(self.clips[utterance]), "pass": np.array([passes])}


def attach_clean_audio(data: SpeechData, data_dir: str, rate: int) -> None:
    """Have a set's loader bring the samples that a teacher hears."""
    data.dataset = _With(data.dataset, CleanAudio(data_dir, rate))


def clean_audio(batch: Batch) -> list[np.ndarray]:
    """(N,) samples of each utterance of a batch, without padding."""
    samples = batch.tensors[CLEAN].cpu().numpy()
    return [row[:n] for row, n in zip(samples, batch.tensors[f"{CLEAN}_lengths"].tolist(), strict=True)]


def common_frames(
    targets: Targets, data_dir: str, samples: Mapping[str, int], student_frames, tolerance: int
) -> dict[str, int]:
    """Frames of each utterance that student and all teachers have.

    Args:
        targets: attached to the set.
        data_dir: the set.
        samples: length of every utterance.
        student_frames: function of a length in samples.
        tolerance: frames that a teacher may have more or less.

    Raises:
        UserError: lengths that are further apart.
    """
    found = {}
    for utterance, length in samples.items():
        own = student_frames(length)
        lengths = targets.frames(data_dir, utterance, length)
        found[utterance] = min(
            common_length(own, n, tolerance, utterance, name) for name, n in lengths.items()
        )
    return found


def sample_summary(frames: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Mean and covariance of some frames (T, E), as a store's summary has them."""
    rows = np.concatenate(frames).astype(np.float64)
    return {"mean": rows.mean(0), "covariance": np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)}


def write_summaries(path: Path, summaries: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Keep what standardises live targets, so that a run that goes on uses the same."""
    from espnet_ext.files import atomic_path

    flat = {f"{name}/{what}": value for name, own in summaries.items() for what, value in own.items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **flat)


def read_summaries(path: Path, sizes: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """What `write_summaries` wrote.

    Args:
        path: of the file.
        sizes: E of each teacher.

    Raises:
        UserError: it is damaged, or of other teachers.
    """
    shapes = {f"{name}/mean": (size,) for name, size in sizes.items()}
    shapes |= {f"{name}/covariance": (size, size) for name, size in sizes.items()}
    flat = read_arrays(path, shapes, "remove it; the training makes it anew when it is started again")
    return {name: {what: flat[f"{name}/{what}"] for what in ("mean", "covariance")} for name in sizes}


def draw_utterances(names: Sequence[str], count: int) -> list[str]:
    """Some utterances, the same for whoever asks."""
    return sorted(names, key=lambda name: key("statistics", name))[:count]
