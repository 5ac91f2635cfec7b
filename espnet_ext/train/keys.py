"""Random numbers with keys: the same draw wherever, whenever and in whichever process it is made."""

import functools
import hashlib

import numpy as np
import torch


def key(*parts: int | str) -> int:
    """A 63-bit number that depends on every part and on nothing else (SHA-256 of their text)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator for the key of ``parts``."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's default generators (CPU and GPUs), from which dropout draws, for the key of ``parts``."""
    # Without a GPU torch.manual_seed notes down a traceback for the day one appears: a millisecond each time.
    (torch.manual_seed if _gpu() else torch.default_generator.manual_seed)(key(*parts))


@functools.cache
def _gpu() -> bool:
    return torch.cuda.is_available()
