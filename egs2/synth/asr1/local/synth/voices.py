"""Voices of espeak-ng: accent, variant, pitch and speed, dealt out to the splits without overlap."""

import math
from dataclasses import dataclass
from itertools import product

from synth.streams import stream


@dataclass(frozen=True)
class Voice:
    """Names of espeak-ng's voice files, its ``pitch`` (-p, 0 to 99) and ``speed`` (-s, words a minute)."""

    name: str
    split: str
    accent: str
    variant: str
    pitch: int
    speed: int

    @property
    def espeak_voice(self) -> str:
        return f"{self.accent}+{self.variant}"


def deal_voices(config: dict, seed: int, scale: float) -> dict[str, list[Voice]]:
    """Voices of each split; ``<split>_babble`` holds those that are only heard talking in the background.

    Pairs of accent and variant are shuffled and dealt, so two splits never share one.
    """
    pairs = list(product(config["accents"], config["variants"]))
    rng = stream(seed, "voices")
    rng.shuffle(pairs)
    voices: dict[str, list[Voice]] = {}
    for split, sizes in config["splits"].items():
        count = scaled(sizes["voices"], min(scale, 1.0), least=2)
        for group, size in ((split, count), (f"{split}_babble", 5)):
            voices[group] = []
            for index in range(size):
                accent, variant = pairs.pop()
                pitch, speed = (rng.randint(*config[key]) for key in ("pitch", "speed"))
                voices[group].append(Voice(f"{group}{index:03d}", split, accent, variant, pitch, speed))
    return voices


def scaled(size: int, scale: float, least: int) -> int:
    """``size`` times ``scale``, rounded up, never below ``least``."""
    return max(least, math.ceil(size * scale - 1e-9))
