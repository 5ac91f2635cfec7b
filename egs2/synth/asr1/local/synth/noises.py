"""Synthetic noises of many kinds, each with parameters of its own, named and reproducible."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal

from synth.speak import RATE, resample, speak
from synth.streams import array_stream
from synth.voices import Voice

#: Kinds every split has; dev and test have one more each, of a sort unheard in training.
COMMON = ("white", "pink", "brown", "hum", "engine", "clicks", "tones", "babble", "wind")
EXTRA = {"train": (), "dev": ("rain",), "test": ("siren",)}


@dataclass(frozen=True)
class Noise:
    """One recording: its kind, and the split it belongs to."""

    name: str
    split: str
    kind: str


def deal_noises(split: str, count: int) -> list[Noise]:
    """``count`` noises of a split, kind by kind in turn."""
    kinds = EXTRA[split] + COMMON
    return [
        Noise(f"{split}-{kinds[i % len(kinds)]}{i // len(kinds):02d}", split, kinds[i % len(kinds)])
        for i in range(count)
    ]


def make_noise(
    noise: Noise, seed: int, seconds: float, voices: list[Voice], sentences: list[str]
) -> np.ndarray:
    """Float32 at 16 kHz; only its shape counts, mixing sets the level.

    Args:
        noise: which one.
        seed: of the corpus.
        seconds: length.
        voices, sentences: who babbles and what.
    """
    rng = array_stream(seed, "noise", noise.name)
    length = int(seconds * RATE)
    x = _babble(rng, length, voices, sentences) if noise.kind == "babble" else _KINDS[noise.kind](rng, length)
    return x.astype(np.float32)


def _coloured(rng: np.random.Generator, length: int, slope: float) -> np.ndarray:
    """Gaussian noise whose power falls with frequency to the power of ``slope``."""
    spectrum = rng.standard_normal(length // 2 + 1) + 1j * rng.standard_normal(length // 2 + 1)
    frequency = np.arange(length // 2 + 1) * RATE / length
    return np.fft.irfft(spectrum * np.maximum(frequency, 20.0) ** (-slope / 2), length)


def _slow(rng: np.random.Generator, length: int, rate: float) -> np.ndarray:
    """A wave between 0 and 1 that wanders about ``rate`` times a second."""
    points = rng.uniform(0, 1, int(length / RATE * rate) + 3)
    return np.interp(np.arange(length) / RATE * rate, np.arange(len(points)), points)


def _white(rng, length):
    low, high = rng.uniform(50, 400), rng.uniform(4000, 7500)
    return signal.sosfilt(
        signal.butter(2, [low, high], "band", fs=RATE, output="sos"), rng.standard_normal(length)
    )


def _pink(rng, length):
    return _coloured(rng, length, rng.uniform(0.8, 1.2)) * (0.5 + _slow(rng, length, rng.uniform(0.3, 2)))


def _brown(rng, length):
    return _coloured(rng, length, rng.uniform(1.6, 2.2))


def _harmonics(rng, phase, count, fall):
    return sum(
        np.sin(k * phase + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.3, 1) * k**-fall
        for k in range(1, count + 1)
    )


def _hum(rng, length):
    pitch = rng.choice([50, 60]) * rng.integers(1, 4) * rng.uniform(0.98, 1.02)
    phase = 2 * np.pi * pitch * np.arange(length) / RATE
    return _harmonics(rng, phase, 20, rng.uniform(0.5, 1.2)) + 0.3 * rng.standard_normal(length)


def _engine(rng, length):
    pitch = rng.uniform(25, 90) * (0.8 + 0.4 * _slow(rng, length, rng.uniform(0.2, 1)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    roar = _coloured(rng, length, 1.0)
    return _harmonics(rng, phase, 25, 0.7) + 2 * roar / roar.std() * (1 + 0.8 * np.sin(phase))


def _clicks(rng, length):
    hits = np.zeros(length)
    at = np.cumsum(rng.exponential(1 / rng.uniform(4, 12), int(length / RATE * 30)) * RATE).astype(int)
    at = at[at < length]
    hits[at] = rng.uniform(0.2, 1, len(at)) * rng.choice([-1, 1], len(at))
    time = np.arange(int(0.03 * RATE)) / RATE
    knock = np.exp(-time * rng.uniform(150, 400)) * (
        np.sin(2 * np.pi * rng.uniform(800, 3500) * time) + rng.standard_normal(len(time))
    )
    return signal.fftconvolve(hits, knock)[:length] + 0.01 * rng.standard_normal(length)


def _tones(rng, length):
    """A tune: notes of a scale, some at a time, each with a few harmonics and a decay."""
    x = np.zeros(length)
    beat = rng.uniform(0.15, 0.45)
    base = rng.uniform(110, 330)
    for start in np.arange(0, length / RATE, beat):
        for note in rng.choice([0, 2, 4, 5, 7, 9, 11, 12], rng.integers(1, 4), replace=False):
            first = int(start * RATE)
            time = np.arange(min(int(1.5 * beat * RATE), length - first)) / RATE
            x[first : first + len(time)] += _harmonics(
                rng, 2 * np.pi * base * 2 ** (note / 12) * time, 6, 1.0
            ) * np.exp(-3 * time / beat)
    return x


def _wind(rng, length):
    low = _coloured(rng, length, rng.uniform(1.2, 1.8))
    return low * _slow(rng, length, rng.uniform(0.5, 1.5)) ** 2 + 0.02 * low.std() * rng.standard_normal(
        length
    )


def _rain(rng, length):
    drops = rng.standard_normal(length) * (rng.uniform(0, 1, length) < rng.uniform(0.005, 0.03))
    body = signal.butter(2, [rng.uniform(500, 1500), rng.uniform(4000, 7000)], "band", fs=RATE, output="sos")
    return signal.sosfilt(body, drops) + 0.03 * rng.standard_normal(length)


def _siren(rng, length):
    time = np.arange(length) / RATE
    sweep = rng.uniform(500, 900) * 2 ** (0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * time))
    return _harmonics(rng, 2 * np.pi * np.cumsum(sweep) / RATE, 5, 0.8) + 0.2 * rng.standard_normal(length)


def _babble(rng, length, voices, sentences):
    """Every voice talks all the time, each at its own loudness."""
    x = np.zeros(length)
    for voice in voices:
        said: list[np.ndarray] = []
        while sum(map(len, said)) * 16000 < length * 22050:
            said.append(speak(sentences[rng.integers(len(sentences))], voice))
        talk = np.concatenate(resample(said))[:length]
        x[: len(talk)] += talk / (talk.std() + 1e-6) * rng.uniform(0.4, 1)
    return x


_KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "white": _white, "pink": _pink, "brown": _brown, "hum": _hum, "engine": _engine, "clicks": _clicks,
    "tones": _tones, "wind": _wind, "rain": _rain, "siren": _siren,
}  # fmt: skip
