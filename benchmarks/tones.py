"""A data directory of made-up audio of any size, for measuring the data stages."""

import random
from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.data.kaldi import write_speakers, write_table

SECONDS = (2.0, 16.0)
WORDS = (
    "one two three four five six seven eight nine ten red green blue cats dogs birds sing sleep run".split()
)


def make_tones(folder: Path, hours: float, rate: int = 16000, suffix: str = "wav") -> float:
    """Write a data directory of tones in noise, utterances of 2 to 16 s; return its length in seconds."""
    draw, noise = random.Random(0), np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    wav, text, speakers, total = {}, {}, {}, 0.0
    while total < hours * 3600:
        seconds = draw.uniform(*SECONDS)
        samples = 0.1 * noise.standard_normal(int(seconds * rate), dtype=np.float32)
        samples += np.float32(0.2) * np.sin(
            np.arange(len(samples), dtype=np.float32) * draw.uniform(0.05, 0.5)
        )
        name = f"utt-{len(wav):06d}"
        wav[name] = folder / "audio" / f"{len(wav):06d}.{suffix}"
        soundfile.write(wav[name], samples, rate, subtype="PCM_16")
        text[name] = " ".join(draw.choices(WORDS, k=int(seconds * 2)))
        speakers[name] = f"spk{len(wav) % 10}"
        total += seconds
    write_table(folder / "wav.scp", wav)
    write_table(folder / "text", text)
    write_speakers(folder, speakers)
    return total
