"""One data directory: audio block by block, then the tables, then its name."""

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.data.kaldi import write_speakers, write_table
from espnet_ext.data.pool import ordered_map
from synth.plan import Utterance
from synth.render import render
from synth.speak import RATE

#: Utterances of a block: one call of sox, one folder of audio, one unit of work.
BLOCK = 64
#: Bytes before the samples in a WAV file, and bytes a second.
WAV_HEADER, WAV_SECOND = 44, 2 * RATE


@dataclass(frozen=True)
class Block:
    """Work for one process: the utterances from number ``start`` on, to be written into ``folder``."""

    folder: Path
    start: int
    utterances: list[Utterance]
    seed: int
    sounds: Path  # holds noise/ and room/


def write_set(
    out_dir: Path, name: str, utterances: list[Utterance], labelled: bool, seed: int, nj: int
) -> None:
    """Write ``out_dir/name`` unless it is there.

    Audio goes to ``out_dir/.name.partial`` first; a block that is there is complete, so an interrupted run
    goes on where it stopped. ``utt2cond`` says clean or noisy, ``utt2noise`` noise and SNR (dB),
    ``utt2room`` the room.
    """
    target, partial = out_dir / name, partial_dir(out_dir, name)
    if target.exists():
        return
    (partial / "wav").mkdir(parents=True, exist_ok=True)
    blocks = [
        Block(folder, start, utterances[start : start + BLOCK], seed, out_dir)
        for start in range(0, len(utterances), BLOCK)
        if not (folder := partial / "wav" / block_name(start)).exists()
    ]
    for _ in ordered_map(_write_block, blocks, nj, name, "block"):
        pass
    _write_tables(partial, target, utterances, labelled)
    os.replace(partial, target)


def partial_dir(out_dir: Path, name: str) -> Path:
    """Where ``out_dir/name`` grows until it is complete."""
    return out_dir / f".{name}.partial"


def block_name(index: int) -> str:
    """Folder of utterance number ``index``."""
    return f"{index // BLOCK:05d}"


def audio_hours(folder: Path) -> float:
    """Hours of audio in a data directory, from the sizes of its files."""
    return sum(path.stat().st_size - WAV_HEADER for path in folder.glob("wav/*/*.wav")) / WAV_SECOND / 3600


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write int16 samples at the corpus' rate."""
    # Encoded in memory first: libsndfile does not report a disk that is full when it closes a file.
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE, format="WAV", subtype="PCM_16")
    path.write_bytes(encoded.getbuffer())


def _write_block(block: Block) -> None:
    noises, responses = _Recordings(block.sounds / "noise"), _Recordings(block.sounds / "room")
    beside = block.folder.with_name(block.folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for index, samples in enumerate(render(block.utterances, block.seed, noises, responses), block.start):
        write_wav(beside / f"{index:06d}.wav", samples)
    os.replace(beside, block.folder)


class _Recordings(dict):
    """Audio files of a folder by name, read when first asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> np.ndarray:
        samples, _ = soundfile.read(self._folder / f"{name}.wav", dtype="float32")
        self[name] = samples
        return samples


def _write_tables(folder: Path, target: Path, utterances: list[Utterance], labelled: bool) -> None:
    rows: dict[str, dict[str, object]] = {
        "wav.scp": {u.key: f"{target}/wav/{block_name(i)}/{i:06d}.wav" for i, u in enumerate(utterances)},
        "utt2cond": {u.key: "noisy" if u.noise else "clean" for u in utterances},
        "utt2noise": {u.key: f"{u.noise.name} {u.snr:.2f}" for u in utterances if u.noise},
        "utt2room": {u.key: u.room.name for u in utterances if u.room},
    }
    if labelled:
        rows["text"] = {u.key: u.text for u in utterances}
    for file, table in rows.items():
        if table:
            write_table(folder / file, table)
    write_speakers(folder, {u.key: u.voice.name for u in utterances})
