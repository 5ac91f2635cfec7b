"""Kaldi's log-mel filterbank in numpy: no torch to start for a stage that takes seconds.

The numbers are those of ``torchaudio.compliance.kaldi.fbank`` with 80 bins and no dither, on samples scaled
as 16-bit integers as Kaldi does (a test holds both together).
"""

from functools import cache

import numpy as np
import scipy.fft

from espnet_ext.data.lengths import fbank_frames

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
    window, shift = int(rate * 0.025), int(rate * 0.010)
    count = fbank_frames(len(samples), window, shift)
    if count == 0:
        return np.zeros((0, MELS), np.float32)
    samples = samples.astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[
        : (count - 1) * shift + 1 : shift
    ]  # (T, W)
    frames = frames - frames.mean(axis=1, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - _PREEMPHASIS * previous) * _povey_window(window)
    size = _fft_size(window)
    spectrum = scipy.fft.rfft(frames, size, axis=1)[
        :, : size // 2
    ]  # (T, F), Kaldi leaves out the Nyquist bin
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(np.maximum(power @ _mel_matrix(size, rate), _FLOOR))


def _fft_size(window: int) -> int:
    return 1 << (window - 1).bit_length()


@cache
def _povey_window(size: int) -> np.ndarray:
    """Hann window to the power of 0.85 (Kaldi's default)."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    return (hann**0.85).astype(np.float32)


@cache
def _mel_matrix(fft_size: int, rate: int) -> np.ndarray:
    """(F, 80) triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), from 20 Hz to the Nyquist frequency."""

    def mel(hertz):
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(_LOWEST_HZ), mel(rate / 2), MELS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(fft_size // 2) * rate / fft_size)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
