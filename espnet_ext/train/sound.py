"""Recordings of a data directory as float samples."""

from collections.abc import Iterator, Mapping

import numpy as np

from espnet_ext.data import riff


class Recordings(Mapping):
    """What ESPnet's reader returns; mono 16-bit WAV files are read without libsndfile, which is faster.

    Args:
        reader: ESPnet's, of `wav.scp`.
        lengths: samples of each utterance. A file of another length is left to ESPnet's reader.
    """

    def __init__(self, reader: Mapping, lengths: Mapping[str, int]):
        self.reader, self.lengths = reader, lengths
        self.paths: Mapping[str, str] = reader.loader.data
        self._first: tuple[str, int] | None = None  # the first utterance that was read, and its rate

    def __getitem__(self, utterance: str) -> np.ndarray:
        """(N,) float32, full scale is 1.

        Raises:
            ValueError: several channels, or another sampling rate than that of the first one read.
        """
        found = riff.read_rated(self.paths[utterance], self.lengths.get(utterance, 0))
        if found is None:
            samples = self.reader[utterance]
            rate = self.reader.rate
            if samples.ndim != 1:
                raise ValueError(f"it has {samples.shape[1]} channels, expected one")
        else:
            rate, samples = found
            samples = samples.astype(np.float32) * np.float32(2**-15)
        first, expected = self._first = self._first or (utterance, rate)
        if rate != expected:
            raise ValueError(f"its sampling rate is {rate}, that of {first!r} is {expected}")
        return samples

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
