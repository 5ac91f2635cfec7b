"""ESPnet's default frontend (centred STFT, power, Slaney mel filters, natural logarithm) in numpy.

The same numbers as ``espnet2.asr.frontend.default.DefaultFrontend`` gives for an utterance alone (a test
holds both together), without the seconds that torch and espnet2 take to start, and faster on each core: the
frames of a chunk stay in the processor's cache from the window to the logarithm.
"""

from collections.abc import Iterator

import numpy as np

from espnet_ext.data import melbank
from espnet_ext.data.lengths import sample_rate, stft_frames
from espnet_ext.errors import UserError

#: ESPnet's floor under the logarithm.
_FLOOR = 1e-10
#: Generalised cosine windows, a - (1 - a) cos(2 pi n / N), periodic as torch's.
_WINDOWS = {None: 1.0, "hann": 0.5, "hamming": 0.54}


class LogMel:
    """Log-mel features, configured by ESPnet's ``frontend_conf``.

    Attributes:
        fs: sample rate in Hz.
        n_fft, hop_length: window and hop in samples.
        n_mels: number of features D.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        n_fft: int = 512,
        win_length: int | None = None,
        hop_length: int = 128,
        window: str | None = "hann",
        center: bool = True,
        n_mels: int = 80,
        fmin: float | None = None,
        fmax: float | None = None,
        htk: bool = False,
        **others,
    ):
        """The arguments are DefaultFrontend's; an unknown one that would change the features is refused.

        Raises:
            UserError: an option that this class does not implement.
        """
        defaults = {"normalized": False, "onesided": True, "apply_stft": True}
        unknown = [name for name, value in others.items() if defaults.get(name, ...) != value]
        if window not in _WINDOWS:
            unknown.append("window")
        if unknown:
            raise UserError(
                f"frontend_conf: {', '.join(unknown)} is not supported by the statistics stage; leave it at "
                "its default, or use `normalize: utterance_mvn`, which needs no statistics"
            )
        self.fs = sample_rate(fs)
        self.n_fft, self.hop_length, self.center, self.n_mels = n_fft, hop_length, center, n_mels
        shape = _padded_window(window, win_length or n_fft, n_fft)
        # 16-bit samples are brought into [-1, 1) by the window, which is exact: it is a division by 2 ** 15.
        scales = {np.float32: np.float32(1), np.int16: np.float32(1 / 32768)}
        self._windows = {np.dtype(kind): melbank.Window(shape * scale) for kind, scale in scales.items()}
        filters = mel_filters(self.fs, n_fft, n_mels, fmin or 0.0, fmax or self.fs / 2, htk)
        self._bank = melbank.LogMelBank(filters, _FLOOR)

    @property
    def least_samples(self) -> int:
        """The shortest utterance that has features: reflection at the edges needs more than half a window."""
        return self.n_fft // 2 + 1 if self.center else self.n_fft

    def frames(self, samples: int) -> int:
        """Number of frames for so many samples."""
        return stft_frames(samples, self.n_fft, self.hop_length, self.center)

    def chunks(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the features of ``samples`` (S,), int16 or float32 in [-1, 1), in pieces (t, D) in order."""
        window = self._windows[samples.dtype]
        samples = _reflected(samples, self.n_fft // 2 if self.center else 0)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.n_fft)[:: self.hop_length]  # (T, N)
        for chunk in melbank.chunks(frames):
            windowed = melbank.scratch(self.n_fft, np.float32)[: len(chunk)]
            windowed[:] = chunk
            window.apply(windowed)
            yield self._bank(windowed)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features (T, D) of one utterance (S,)."""
        return np.concatenate(list(self.chunks(samples)))


def _padded_window(name: str | None, length: int, n_fft: int) -> np.ndarray:
    cosine = _WINDOWS[name]
    window = cosine - (1 - cosine) * np.cos(2 * np.pi * np.arange(length) / length)
    left = (n_fft - length) // 2
    return np.pad(window, (left, n_fft - length - left)).astype(np.float32)


def _reflected(samples: np.ndarray, edge: int) -> np.ndarray:
    """More than ``edge`` samples (S,) to float32 (S + 2 edge), mirrored at both ends (torch's "reflect")."""
    end = edge + len(samples)
    padded = np.empty(end + edge, np.float32)
    padded[edge:end] = samples
    if edge:
        padded[:edge] = padded[2 * edge : edge : -1]
        padded[end:] = padded[end - 2 : end - 2 - edge : -1]
    return padded


def mel_filters(fs: int, n_fft: int, n_mels: int, fmin: float, fmax: float, htk: bool) -> np.ndarray:
    """(F, D) triangular filters of unit area (Slaney's), on Slaney's mel scale or HTK's."""
    to_mel, to_hertz = (_htk_mel, _htk_hertz) if htk else (_slaney_mel, _slaney_hertz)
    edges = to_hertz(np.linspace(to_mel(np.float64(fmin)), to_mel(np.float64(fmax)), n_mels + 2))
    return melbank.triangles(edges, np.linspace(0, fs / 2, n_fft // 2 + 1)) * 2 / (edges[2:] - edges[:-2])


def _htk_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def _htk_hertz(mel):
    return 700 * (10 ** (mel / 2595) - 1)


#: Slaney's Auditory Toolbox: linear below 1000 Hz (3 mel for 200 Hz), then 27 mel for a factor of 6.4.
_LINEAR, _BREAK_HZ, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _slaney_mel(hertz):
    above = _BREAK_HZ / _LINEAR + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _STEP
    return np.where(hertz < _BREAK_HZ, hertz / _LINEAR, above)


def _slaney_hertz(mel):
    above = _BREAK_HZ * np.exp((np.maximum(mel, _BREAK_HZ / _LINEAR) - _BREAK_HZ / _LINEAR) * _STEP)
    return np.where(mel < _BREAK_HZ / _LINEAR, mel * _LINEAR, above)
