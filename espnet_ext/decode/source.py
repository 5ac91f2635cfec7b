"""The utterances of a dumped data directory: how long each is, and its samples or features."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.data.audio import read_audio, to_float
from espnet_ext.data.kaldi import Table, read_table
from espnet_ext.errors import UserError

#: Seconds between two frames of stored features (Kaldi's and ours).
FRAME_SHIFT = 0.01


@dataclass(frozen=True)
class Utterance:
    """One utterance to decode; ``seconds`` is its duration."""

    name: str
    seconds: float


class Source:
    """What a data directory offers to a model.

    Args:
        data_dir: a dumped set (``wav.scp`` or ``feats.scp``, ``utt2num_samples`` or ``utt2num_frames``).
        fs: sample rate that the model expects, in Hz.
        features: number of features a frame that the model expects; None: it reads audio.

    Raises:
        UserError: files are missing or malformed, or hold something else than the model reads.
    """

    def __init__(self, data_dir: str | os.PathLike, fs: int, features: int | None):
        folder = Path(data_dir)
        self.fs, self.features = fs, features
        scp, lengths, rate = (
            ("wav.scp", "utt2num_samples", fs)
            if features is None
            else (
                "feats.scp",
                "utt2num_frames",
                round(1 / FRAME_SHIFT),
            )
        )
        if not (folder / scp).exists():
            kind = "audio" if features is None else f"stored features ({features} a frame)"
            raise UserError(
                f"{folder / scp}: no such file; the model reads {kind}. Run stage 3 (features) for this set, "
                "with the --feats_type the model was trained with"
            )
        if (folder / "segments").exists():
            raise UserError(
                f"{folder / 'segments'}: segments are cut by stage 3 (features); decode what it wrote"
            )
        self.scp: Table = read_table(folder / scp, value="path")
        self.lengths = self._read_lengths(folder / lengths, rate)

    def _read_lengths(self, path: Path, rate: int) -> dict[str, float]:
        """Duration of every utterance in seconds."""
        table = read_table(path, value="length")
        for name in self.scp.rows:
            if name not in table.rows:
                raise UserError(
                    f"{self.scp.where(name)}: {name!r} is not in {path}; run stage 3 (features) again"
                )
        durations = {}
        for name in self.scp.rows:
            try:
                durations[name] = int(table.rows[name]) / rate
            except ValueError:
                raise UserError(
                    f"{table.where(name)}: expected '<id> <number>', found {table.rows[name]!r}"
                ) from None
        return durations

    def utterances(self, job: int = 1, num_jobs: int = 1) -> list[Utterance]:
        """The ``job``-th of ``num_jobs`` nearly equal contiguous parts, in the order of the file."""
        everything = [Utterance(name, seconds) for name, seconds in self.lengths.items()]
        share, rest = divmod(len(everything), num_jobs)
        start = (job - 1) * share + min(job - 1, rest)
        return everything[start : start + share + (job <= rest)]

    def read(self, name: str) -> np.ndarray:
        """Samples (T,) in [-1, 1) or features (T, D), float32.

        Raises:
            UserError: unreadable, of another sample rate, with more than one channel, or of another size.
        """
        where, path = self.scp.where(name), self.scp.rows[name]
        if self.features is not None:
            return self._read_features(where, path)
        audio = read_audio(path, where)
        if audio.rate != self.fs or audio.channels != 1:
            raise UserError(
                f"{where}: {path!r} has {audio.channels} channel(s) at {audio.rate} Hz, the model expects "
                f"mono at {self.fs} Hz; run stage 3 (features) for this set"
            )
        # A recording that needs no conversion is read where it lies: it may have been replaced since.
        expected = round(self.lengths[name] * self.fs)
        if len(audio.samples) != expected:
            raise UserError(
                f"{where}: {path!r} had {expected} samples when features were made, now it has "
                f"{len(audio.samples)}; run stage 3 (features) again, with --force"
            )
        return to_float(audio.samples[:, 0])

    def _read_features(self, where: str, path: str) -> np.ndarray:
        import kaldiio

        try:
            matrix = kaldiio.load_mat(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: {path!r} cannot be read as a Kaldi matrix ({error})") from None
        if matrix.ndim != 2 or matrix.shape[1] != self.features:
            raise UserError(
                f"{where}: {path!r} has the shape {matrix.shape}, the model expects {self.features} features "
                "a frame"
            )
        return matrix.astype(np.float32)
