"""Random streams with names: what is drawn for one thing does not depend on what was drawn for another."""

import hashlib
import random

import numpy as np


def _key(names: tuple) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, names)).encode()).digest()[:16], "big")


def stream(*names) -> random.Random:
    """A stream of Python's own generator, named by ``names`` (seed, set, purpose...)."""
    return random.Random(_key(names))


def array_stream(*names) -> np.random.Generator:
    """The same for arrays."""
    return np.random.Generator(np.random.PCG64(_key(names)))
