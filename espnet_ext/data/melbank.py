"""From windowed frames to logarithmic mel energies, the part that ESPnet's and Kaldi's features share."""

from collections.abc import Iterator

import numpy as np
import scipy.fft

#: Frames worked on at a time: few enough for all steps to stay in the processor's cache, and for the memory
#: between two chunks to be used again (with 512, every chunk gets new pages from the kernel: twice as slow).
CHUNK = 256
_BLOCKS = 5


class LogMelBank:
    """Power spectrum, mel filters, floor, natural logarithm."""

    def __init__(self, filters: np.ndarray, floor: float):
        """Split the filters into blocks of neighbours.

        Args:
            filters: (F, D), F = N / 2 + 1 for frames of N samples.
            floor: least mel energy.
        """
        self._floor = np.float32(floor)
        self._size = filters.shape[1]
        # Filters are narrow: a block of neighbours reads few bins, all blocks a quarter of the whole matrix.
        self._blocks = []
        for columns in np.array_split(np.arange(self._size), min(_BLOCKS, self._size)):
            rows = np.flatnonzero(filters[:, columns].any(axis=1))
            if len(rows):  # else its filters lie between two bins, and its energies are the floor
                bins, bands = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
                self._blocks.append((bins, bands, np.ascontiguousarray(filters[bins, bands], np.float32)))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(T, N) windowed float32 frames to (T, D)."""
        parts = scipy.fft.rfft(frames).view(np.float32)  # (T, 2 F)
        parts *= parts
        power = parts[:, ::2] + parts[:, 1::2]  # (T, F)
        mel = np.zeros((len(frames), self._size), np.float32)
        for bins, bands, filters in self._blocks:
            np.matmul(power[:, bins], filters, out=mel[:, bands])
        return np.log(np.maximum(mel, self._floor, out=mel), out=mel)


def chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Cut (T, N) frames into pieces of at most CHUNK."""
    for start in range(0, len(frames), CHUNK):
        yield frames[start : start + CHUNK]


def triangles(edges: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(F, D) triangular filters with peaks of one.

    Args:
        edges: (D + 2,) where the filters begin, peak and end, on any scale.
        bins: (F,) the frequencies of the bins on the same scale.
    """
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = bins[:, None]
    return np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
