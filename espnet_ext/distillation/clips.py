"""Utterances of dumped data directories as teachers hear them.

Legend: N samples.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.data.audio import read_audio, to_float
from espnet_ext.data.kaldi import Table, read_table
from espnet_ext.errors import UserError


@dataclass(frozen=True)
class Clip:
    """An utterance of a set: where its audio is, and how long it is."""

    set: str
    name: str
    path: str
    where: str  # file:line, for messages
    samples: int


#: Samples that are kept between a recording's checksum and its embedding: an hour's.
_KEPT = 3600 * 16000


class SetReader:
    """Utterances of dumped data directories, and their samples.

    Args:
        rate: sample rate in Hz that is expected of the audio.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._kept: dict[tuple[str, str], np.ndarray] = {}
        self._room = _KEPT

    def clips(self, data_dir: str | Path) -> list[Clip]:
        """All utterances of a set, in its order.

        Raises:
            UserError: it holds no audio, or no lengths.
        """
        folder = Path(data_dir)
        if not (folder / "wav.scp").exists():
            found = " (there is feats.scp)" if (folder / "feats.scp").exists() else ""
            raise UserError(f"{folder / 'wav.scp'}: no such file{found}; a teacher hears audio (raw)")
        scp: Table = read_table(folder / "wav.scp", value="path")
        lengths = read_table(folder / "utt2num_samples", value="length").rows
        missing = [name for name in scp.rows if name not in lengths]
        if missing:
            raise UserError(f"{scp.where(missing[0])}: {missing[0]!r} is not in {folder / 'utt2num_samples'}")
        return [
            Clip(str(data_dir), name, path, scp.where(name), int(lengths[name]))
            for name, path in scp.rows.items()
        ]

    def read_early(self, clip: Clip) -> np.ndarray:
        """As `read`; the next `read` of the utterance needs no file, as long as there is room."""
        samples = self.read(clip)
        if len(samples) <= self._room:
            self._room -= len(samples)
            self._kept[clip.set, clip.name] = samples
        return samples

    def read(self, clip: Clip) -> np.ndarray:
        """(N,) float32 samples.

        Raises:
            UserError: unreadable, or of another rate than the teacher's.
        """
        early = self._kept.pop((clip.set, clip.name), None)
        if early is not None:
            self._room += len(early)
            return early
        audio = read_audio(clip.path, clip.where)
        if audio.rate != self.rate or audio.channels != 1:
            raise UserError(
                f"{clip.where}: {clip.path!r} has {audio.channels} channel(s) at {audio.rate} Hz, the "
                f"teacher hears mono at {self.rate} Hz; run stage 3 (features) with --fs {self.rate}"
            )
        return to_float(audio.samples[:, 0])
