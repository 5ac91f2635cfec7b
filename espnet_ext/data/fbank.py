"""Kaldi's log-mel filterbank in numpy: no torch to start for a stage that takes seconds.

The numbers are those of ``torchaudio.compliance.kaldi.fbank`` with 80 bins and no dither, on samples scaled
as 16-bit integers as Kaldi does (a test holds both together).
"""

from functools import cache

import numpy as np

from espnet_ext.data.lengths import fbank_frames
from espnet_ext.data.melbank import LogMelBank, chunks, triangles

MELS = 80
_PREEMPHASIS = np.float32(0.97)
_LOWEST_HZ = 20.0
#: Kaldi's floor under the logarithm.
_FLOOR = np.finfo(np.float32).eps


def fbank(samples: np.ndarray, rate: int) -> np.ndarray:
    """Log-mel energies of one utterance.

    Args:
        samples: (S,) 16-bit integers.
        rate: sample rate in Hz.

    Returns:
        (T, 80) float32, T = ``fbank_frames(S)`` for windows of 25 ms every 10 ms.
    """
    size, shift = int(rate * 0.025), int(rate * 0.010)
    count = fbank_frames(len(samples), size, shift)
    if count == 0:
        return np.zeros((0, MELS), np.float32)
    samples = samples.astype(np.float32)
    # Kaldi takes the mean off a frame x, then x[i] - 0.97 x[i - 1], with x[0] standing in for x[-1]. Here the
    # difference is taken once for the whole signal; then 0.03 of the mean goes off, and x[0] is mended.
    emphasised = np.concatenate([samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1]])
    bank, window = _bank(size, rate), _povey_window(size)
    frames, differences = (_frames(signal, size, shift, count) for signal in (samples, emphasised))
    features = []
    for raw, difference in zip(chunks(frames), chunks(differences), strict=True):
        padded = np.zeros((len(raw), _fft_size(size)), np.float32)
        windowed = padded[:, :size]
        windowed[:] = difference
        windowed[:, 0] = (1 - _PREEMPHASIS) * raw[:, 0]
        windowed -= (1 - _PREEMPHASIS) * raw.mean(axis=1, keepdims=True)
        windowed *= window
        features.append(bank(padded))
    return np.concatenate(features)


def _frames(signal: np.ndarray, size: int, shift: int, count: int) -> np.ndarray:
    """(T, size) view of overlapping frames."""
    return np.lib.stride_tricks.sliding_window_view(signal, size)[: (count - 1) * shift + 1 : shift]


def _fft_size(window: int) -> int:
    return 1 << (window - 1).bit_length()


@cache
def _povey_window(size: int) -> np.ndarray:
    """Hann window to the power of 0.85 (Kaldi's default)."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    return (hann**0.85).astype(np.float32)


@cache
def _bank(size: int, rate: int) -> LogMelBank:
    """Triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), from 20 Hz to the Nyquist frequency."""

    def mel(hertz):
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    fft_size = _fft_size(size)
    edges = np.linspace(mel(_LOWEST_HZ), mel(rate / 2), MELS + 2)
    filters = triangles(edges, mel(np.arange(fft_size // 2 + 1) * rate / fft_size))
    filters[-1] = 0  # Kaldi leaves out the bin at the Nyquist frequency
    return LogMelBank(filters, _FLOOR)
