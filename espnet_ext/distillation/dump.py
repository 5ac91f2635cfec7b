"""Computing a teacher's embeddings of some sets, once, before training.

Legend: N samples, T frames, E size of an embedding.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from espnet_ext.data.embedding_codecs import (
    CODEBOOKS_FILE,
    codebooks_of,
    make_codec,
    reconstruction_error,
    train_codebooks,
    write_codebooks,
)
from espnet_ext.data.embeddings import EmbeddingStore, EmbeddingWriter, audio_key, locked
from espnet_ext.data.stored import AGAIN, check_disk, duration
from espnet_ext.distillation.clips import Clip, SetReader
from espnet_ext.distillation.frames import finite, reduce_rate, reduction_factor
from espnet_ext.distillation.teachers import Teacher, check_rate
from espnet_ext.errors import UserError
from espnet_ext.files import human
from espnet_ext.progress import progress
from espnet_ext.train.keys import generator

#: Utterances that are computed before anything is written, to say how long it will take.
_SAMPLE = 8
#: Utterances that make the codebooks, and those that measure the error they leave.
_QUANTISER_SAMPLE, _QUANTISER_TEST = 300, 30


@dataclass(frozen=True)
class DumpOptions:
    """How embeddings are made and stored."""

    frame_shift: int  # samples between two of the student's frames
    rate: int  # of the audio, Hz
    reduce: str = "mean"
    storage: str = "fp16"
    batch_seconds: float = 60.0  # of audio the teacher hears at once, padding counted
    shard_seconds: float = 1800.0  # of audio in a shard


class Dump:
    """Writes one teacher's embeddings.

    Args:
        name: of the teacher, for messages.
        teacher: computes them.
        train: data directories over which mean and deviation are taken.
        others: further ones (validation).
        folder: of the store.
        options: see there.
        replace: remove embeddings of other settings.

    Raises:
        UserError: audio of another sample rate than the teacher's, frame rates that do not fit.
    """

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        train: Sequence[str | Path],
        others: Sequence[str | Path],
        folder: Path,
        options: DumpOptions,
        replace: bool = False,
    ):
        self.name, self.teacher, self.folder, self.options = name, teacher, folder, options
        self.replace = replace
        check_rate(teacher, name, options.rate)
        self.factor = reduction_factor(teacher.shift, options.frame_shift, name)
        self.size = teacher.size * (self.factor if options.reduce == "concat" else 1)
        self.reader = SetReader(teacher.rate)
        self.train = [str(each) for each in train]
        self.sets = {str(each): self.reader.clips(each) for each in dict.fromkeys([*train, *others])}
        self.settings = {
            "teacher": teacher.identity,
            "frame_shift": options.frame_shift,
            "reduce": options.reduce,
            "factor": self.factor,
            "size": self.size,
            "storage": options.storage,
        }

    def embed(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T, E) fp32 embeddings at the student's frame rate.

        Raises:
            UserError: they are no numbers.
        """
        return [
            finite(reduce_rate(frames, self.factor, self.options.reduce).cpu().numpy(), self.name)
            for frames in self.teacher.embed(audio)
        ]

    def cost(self) -> str:
        """What `run` would compute, write and take, in words; nothing is written.

        Audio is told apart by what it sounds like, which is known once it has been read: where a set was
        never dumped, all of it counts.
        """
        clips = [clip for own in self.sets.values() for clip in own]
        try:
            store = EmbeddingStore(self.folder)
            if {**store.settings, "format": 0, "row_bytes": 0} == {
                **self.settings,
                "format": 0,
                "row_bytes": 0,
            }:
                for data_dir in self.sets:
                    keys = store.keys_of(data_dir)
                    clips = [c for c in clips if c.set != data_dir or keys.get(c.name) not in store]
        except UserError:
            pass
        return self._describe(clips)

    def run(self, job: int = 1, jobs: int = 1) -> str:
        """Say what it costs, then compute and write what is missing.

        Args:
            job, jobs: this process's part of the shards, from 1. The last one to find all shards there writes
                the summary.

        Returns:
            a summary for people.

        Raises:
            UserError: bad audio, too small a disk, a store of other settings.
        """
        writer = EmbeddingWriter(self.folder, self.settings, self.replace)
        if writer.replaced:
            print(f"{self.folder}: teacher or settings have changed, all is made anew", flush=True)
        clips = self._keys(writer)
        order = sorted(clips, key=lambda key: (clips[key].samples, key))
        missing = [key for key in order if key not in writer]
        print(self._describe([clips[key] for key in missing]), flush=True)
        if codebooks_of(self.options.storage):
            self._codebooks([clips[key] for key in order], bool(writer.index))
        shards = self._cut(order, clips, self.options.shard_seconds)
        own = [keys for number, keys in enumerate(shards) if number % jobs == job - 1]
        for keys in progress(own, desc=f"embeddings of {self.name}", unit="shard"):
            absent = {key: clips[key] for key in keys if key not in writer}
            if absent:
                writer.add_shard(self._compute(absent))
        writer.reload()
        left = sum(key not in writer for key in order)
        if left:
            return f"{self.folder}: {left} of {len(order)} recordings are left to other jobs"
        training = dict.fromkeys(key for each in self.train for key in writer.keys_of(each).values())
        writer.finish(list(training))
        frames = sum(writer.frames(key) for key in order)
        return f"{self.folder}: embeddings of {len(order)} recordings are complete, {frames} frames"

    def complete(self) -> bool:
        """Whether all recordings of all sets are there, whichever job has written them, and the summary."""
        try:
            store = EmbeddingStore(self.folder)
            store.summary()
            return all(key in store for each in self.sets for key in store.keys_of(each).values())
        except UserError:
            return False

    def _keys(self, writer: EmbeddingWriter) -> dict[str, Clip]:
        """Recordings of all sets by key; sets that have not changed since are not read again."""
        found: dict[str, Clip] = {}
        for data_dir, clips in self.sets.items():
            try:
                keys: Mapping[str, str] = writer.keys_of(data_dir)
            except UserError:
                keys = {}
            if set(keys) != {clip.name for clip in clips}:
                bar = progress(clips, desc=f"checksums of {data_dir}", unit="utt")
                keys = {clip.name: audio_key(self.reader.read_early(clip), self.reader.rate) for clip in bar}
                writer.write_set(data_dir, keys)
            found |= {keys[clip.name]: clip for clip in clips}
        return found

    def _compute(self, clips: Mapping[str, Clip]) -> dict[str, np.ndarray]:
        """Frames of some recordings by key; the longest first: if they do not fit the memory, it shows."""
        found: dict[str, np.ndarray] = {}
        batches = self.batches(list(clips), clips)[::-1]
        # Files are read while the teacher computes.
        with ThreadPoolExecutor(1) as early:
            waiting = [
                early.submit(lambda keys: [self.reader.read(clips[key]) for key in keys], keys)
                for keys in batches
            ]
            for keys, audio in zip(batches, waiting, strict=True):
                found |= dict(zip(keys, self.embed(audio.result()), strict=True))
        return found

    def batches(self, order: list[str], clips: Mapping[str, Clip]) -> list[list[str]]:
        """What the teacher hears at once, of recordings in order of their length."""
        # Whisper hears silence to the end of its window, however short the audio is.
        return self._cut(order, clips, self.options.batch_seconds, getattr(self.teacher, "window", 1))

    def _cut(
        self, order: list[str], clips: Mapping[str, Clip], seconds: float, window: int = 1
    ) -> list[list[str]]:
        """Neighbours whose audio, padding to whole windows (samples) counted, stays within some seconds."""
        groups: list[list[str]] = [[]]
        for key in order:
            longest = max(clips[key].samples, *(clips[other].samples for other in groups[-1][-1:]), 0)
            longest = -(-longest // window) * window
            if groups[-1] and (len(groups[-1]) + 1) * longest > seconds * self.reader.rate:
                groups.append([])
            groups[-1].append(key)
        return [group for group in groups if group]

    def _codebooks(self, clips: list[Clip], used: bool) -> None:
        """Train the codebooks on some recordings, unless they are there; other jobs wait for it.

        Raises:
            UserError: they are gone, while there are shards that were written with them.
        """
        with locked(self.folder):
            path = self.folder / CODEBOOKS_FILE
            if path.exists():
                return
            if used:
                raise UserError(f"{path}: no such file; remove {self.folder} and {AGAIN}")
            draw = generator("codebooks", len(clips))
            training = [clip for clip in clips if clip.set in self.train]
            chosen = [training[i] for i in draw.permutation(len(training))]
            test = chosen[: min(_QUANTISER_TEST, max(1, len(chosen) // 10))]
            sample = chosen[len(test) :][:_QUANTISER_SAMPLE] or test
            frames, held_out = (
                np.concatenate([self.embed([self.reader.read(clip)])[0] for clip in each])
                for each in (sample, test)
            )
            count = codebooks_of(self.options.storage)
            try:
                books = train_codebooks(frames, count, draw)
            except UserError as error:
                raise UserError(f"{self.folder}: {error}") from None
            error = reconstruction_error(held_out, books)
            write_codebooks(self.folder, books, error)
            print(
                f"{self.folder}: {count} codebooks of {len(frames)} frames; they leave {error:.1%} of the "
                f"variance of {len(held_out)} other frames",
                flush=True,
            )

    def _describe(self, clips: Sequence[Clip]) -> str:
        """Disk and time for some recordings; the time is measured on a few of them."""
        frames = sum(clip.samples // self.options.frame_shift for clip in clips)
        size = frames * make_codec(self.options.storage, self.size).row_bytes + 60 * len(clips)
        check_disk(
            self.folder,
            size,
            "store them as int8 or rvq, or let stage 8 compute them as it goes (on_the_fly)",
        )
        seconds = self._time(clips)
        hours = sum(clip.samples for clip in clips) / self.reader.rate / 3600
        return (
            f"{self.folder}: {hours:.2f} h of audio to embed by {self.name}: {frames} frames of {self.size} "
            f"numbers ({self.options.storage}), {human(size)}, about {duration(seconds)}"
        )

    def _time(self, clips: Sequence[Clip]) -> float:
        # No more than one in a hundred, of all lengths: the estimate must not cost a part of the work.
        step = max(1, -(-len(clips) // min(_SAMPLE, -(-len(clips) // 100) or 1)))
        sample = sorted(clips, key=lambda clip: clip.samples)[step // 2 :: step]
        if not sample:
            return 0.0
        self.embed([self.reader.read(sample[0])])  # the first call also sets things up
        begun = time.perf_counter()
        for clip in sample:
            self.embed([self.reader.read(clip)])
        if self.teacher_device().type == "cuda":
            torch.cuda.synchronize()
        rate = (time.perf_counter() - begun) / sum(clip.samples for clip in sample)
        return rate * sum(clip.samples for clip in clips)

    def teacher_device(self) -> torch.device:
        """Where the teacher computes."""
        return next(self.teacher.module.parameters()).device
