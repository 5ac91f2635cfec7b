"""Room impulse responses of shoebox rooms: early reflections by images, then a decaying diffuse tail.

Images: J. B. Allen and D. A. Berkley, "Image method for efficiently simulating small-room acoustics", 1979.
Absorption from the reverberation time: Sabine's formula. Images alone would need millions of them for 0.6 s.
"""

from dataclasses import dataclass

import numpy as np

from synth.speak import RATE
from synth.streams import array_stream, stream

SOUND = 343.0  # m/s
EARLY = 0.05  # s of image sources; after that reflections are too dense to tell apart


@dataclass(frozen=True)
class Room:
    """``size``, ``source`` and ``microphone`` in metres (x, y, z); ``rt60`` in seconds."""

    name: str
    split: str
    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    rt60: float


def draw_room(name: str, split: str, seed: int, rt60: tuple[float, float]) -> Room:
    """A room of 2.5 to 9 m by 2.5 to 7 m with source and microphone at least 0.5 m from each wall."""
    rng = stream(seed, "room", name)
    size = tuple(round(rng.uniform(*span), 3) for span in ((2.5, 9.0), (2.5, 7.0), (2.3, 3.5)))
    source, microphone = (tuple(round(rng.uniform(0.5, side - 0.5), 3) for side in size) for _ in range(2))
    return Room(name, split, size, source, microphone, round(rng.uniform(*rt60), 3))


def impulse_response(room: Room, seed: int) -> np.ndarray:
    """Float32 response at 16 kHz as long as the reverberation time: direct sound at sample 0, amplitude 1."""
    size, source, microphone = (np.asarray(x) for x in (room.size, room.source, room.microphone))
    volume = size.prod()
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorption = min(0.95, 0.161 * volume / (surface * room.rt60))
    reflection = np.sqrt(1 - absorption)
    reach = np.ceil(EARLY * SOUND / (2 * size)).astype(int) + 1
    # image n along an axis: 2 n L +- s, after |2n| or |2n - 1| reflections
    axes = []
    for side, at, here, most in zip(size, source, microphone, reach, strict=True):
        n = np.arange(-most, most + 1)
        offset = np.concatenate([2 * n * side + at, 2 * n * side - at]) - here
        axes.append((offset, np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)])))
    (x, bounce_x), (y, bounce_y), (z, bounce_z) = axes
    distance = np.sqrt(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2).ravel()
    bounces = (bounce_x[:, None, None] + bounce_y[None, :, None] + bounce_z[None, None, :]).ravel()
    direct = max(0.3, float(np.linalg.norm(source - microphone)))
    delay = np.rint((distance - direct) / SOUND * RATE).astype(int)
    length = int(room.rt60 * RATE)
    early = int(EARLY * RATE)
    keep = (delay >= 0) & (delay < early)
    response = np.zeros(length)
    np.add.at(response, delay[keep], (reflection ** bounces[keep]) * direct / np.maximum(distance[keep], 0.3))
    # the tail goes on where the images end: same energy there, 60 dB less after rt60
    time = np.arange(early, length) / RATE
    tail = array_stream(seed, "tail", room.name).standard_normal(length - early)
    level = np.sqrt(np.mean(response[early // 2 : early] ** 2)) * 10 ** (-3 * (EARLY * 0.25) / room.rt60)
    response[early:] = tail * level * 10 ** (-3 * (time - EARLY) / room.rt60)
    response[0] = 1.0
    return response.astype(np.float32)
