"""From windowed frames to logarithmic mel energies, the part that ESPnet's and Kaldi's features share."""

from collections.abc import Iterator
from functools import cache

import numpy as np

from espnet_ext.data.fft import rfft_into

#: Frames worked on at a time: few enough for all steps to stay in the processor's cache.
CHUNK = 192
_BLOCKS = 5
_ROWS = 16


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
                bins, bands = slice(2 * rows[0], 2 * rows[-1] + 2), slice(columns[0], columns[-1] + 1)
                # Each row twice, for the squares of real and imaginary part: the product adds them up.
                block = np.repeat(filters[rows[0] : rows[-1] + 1, bands], 2, axis=0)
                self._blocks.append((bins, bands, np.ascontiguousarray(block, np.float32)))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(T, N) windowed float32 frames, T at most CHUNK, to (T, D)."""
        spectra = scratch(frames.shape[1] // 2 + 1, np.complex64)[: len(frames)]
        rfft_into(frames, spectra)
        squares = spectra.view(np.float32)  # (T, 2 F)
        squares *= squares
        mel = np.zeros((len(frames), self._size), np.float32)
        for bins, bands, filters in self._blocks:
            np.matmul(squares[:, bins], filters, out=mel[:, bands])
        np.maximum(mel, self._floor, out=mel)
        return np.log(mel, out=mel)


@cache
def scratch(columns: int, dtype: type) -> np.ndarray:
    """An array (CHUNK, columns) for results that nobody keeps: new memory costs more than filling it."""
    return np.empty((CHUNK, columns), dtype)


class Window:
    """What frames are multiplied by before they are transformed.

    Several rows at a time: numpy goes through rows of N = 512 one by one at half the speed.
    """

    def __init__(self, shape: np.ndarray):
        """``shape``: (N,) float32."""
        self._row, self._rows = shape, np.tile(shape, _ROWS)

    def apply(self, frames: np.ndarray) -> None:
        """Multiply contiguous frames (T, N) in place."""
        whole = len(frames) // _ROWS * _ROWS
        together = frames[:whole].reshape(-1, len(self._rows))
        together *= self._rows
        frames[whole:] *= self._row


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
