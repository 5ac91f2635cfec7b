"""From planned utterances to samples: speech, room, noise, level."""

from collections.abc import Mapping

import numpy as np
from scipy.signal import oaconvolve

from espnet_ext.data.audio import to_int16
from synth.plan import Utterance
from synth.speak import RATE, resample, speak
from synth.streams import array_stream

#: Standard deviation of the microphone noise, 3 steps of 16 bits: nothing is digital silence.
FLOOR = 3 / 32768


def render(
    utterances: list[Utterance],
    seed: int,
    noises: Mapping[str, np.ndarray],
    responses: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """Synthesise a block of utterances.

    Args:
        utterances: what to say and how.
        seed: of the corpus, for the microphone noise.
        noises: samples by noise name, float32 at 16 kHz.
        responses: impulse responses by room name.

    Returns:
        int16 samples at 16 kHz for each.
    """
    spoken = resample([speak(utterance.text, utterance.voice) for utterance in utterances])
    return [
        _place(utterance, speech, seed, noises, responses)
        for utterance, speech in zip(utterances, spoken, strict=True)
    ]


def _place(
    utterance: Utterance, speech: np.ndarray, seed: int, noises: Mapping, responses: Mapping
) -> np.ndarray:
    before, after = (int(seconds * RATE) for seconds in utterance.silence)
    x = np.zeros(before + len(speech) + after, np.float32)
    x[before : before + len(speech)] = speech
    if utterance.room is not None:
        x = oaconvolve(x, responses[utterance.room.name])[: len(x)]
    if utterance.noise is not None:
        x = x + at_snr(
            x[before : before + len(speech)],
            cut(noises[utterance.noise.name], utterance.noise_start, len(x)),
            utterance.snr,
        )
    x = x * (10 ** (utterance.peak / 20) / np.abs(x).max())
    x = x + FLOOR * array_stream(seed, "floor", utterance.key).standard_normal(len(x), dtype=np.float32)
    return to_int16(x)


def cut(noise: np.ndarray, start: float, length: int) -> np.ndarray:
    """``length`` samples of ``noise`` from ``start`` seconds on, from its beginning again where it ends."""
    first = int(start * RATE) % len(noise)
    return np.resize(np.roll(noise, -first), length)


def at_snr(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """``noise`` scaled so that the power of ``speech`` over its own is ``snr`` dB."""
    power = np.mean(np.square(speech, dtype=np.float64)), np.mean(np.square(noise, dtype=np.float64)) + 1e-12
    return noise * np.float32(np.sqrt(power[0] / power[1]) * 10 ** (-snr / 20))
