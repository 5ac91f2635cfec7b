"""Speech: espeak-ng makes it, sox brings it to the corpus' sample rate. No shell is ever involved."""

import os
import re
import shutil
import subprocess

import numpy as np

from espnet_ext.errors import UserError
from synth.voices import Voice

ESPEAK_RATE = 22050
RATE = 16000
#: A block of samples that lasts the same number of whole samples at both rates (20 ms).
ESPEAK_GRID, GRID = 441, 320


def check_tools(variants: list[str]) -> dict[str, str]:
    """Versions of espeak-ng and sox.

    Args:
        variants: voice variants that must be there; espeak-ng would silently speak without.

    Raises:
        UserError: a tool is absent (the message names the Debian package) or has not these variants.
    """
    versions = {}
    for tool in ("espeak-ng", "sox"):
        if shutil.which(tool) is None:
            raise UserError(f"{tool} is not installed; on Debian or Ubuntu, as root: apt-get install {tool}")
        said = _run([tool, "--version"]).decode()
        found = re.search(r"\d+(\.\d+)+\S*", said)
        if found is None:
            raise UserError(
                f"`{tool} --version` says {said!r}: no version number there; is it the right program?"
            )
        versions[tool] = found[0]
    listed = _run(["espeak-ng", "--voices=variant"]).decode()
    known = set(re.findall(r"!v/(\S+)", listed))
    if absent := [variant for variant in variants if variant not in known]:
        raise UserError(
            f"espeak-ng {versions['espeak-ng']} has no voice variant {', '.join(absent)}; 1.51 has"
        )
    return versions


def speak(text: str, voice: Voice) -> np.ndarray:
    """One utterance as espeak-ng says it: int16 at 22.05 kHz.

    A process an utterance: espeak-ng carries state from one utterance to the next, and a corpus must not
    depend on how the work was divided.

    Raises:
        UserError: espeak-ng failed or gave no speech.
    """
    # fmt: off
    command = ["espeak-ng", "--stdin", "--stdout", "-z", "-b", "1", "-v", voice.espeak_voice,
               "-p", str(voice.pitch), "-s", str(voice.speed)]
    # fmt: on
    wav = _run(command, text.encode())
    start = wav.find(b"data")  # espeak-ng writes to a pipe, so the lengths in its header are placeholders
    samples = (
        np.frombuffer(wav[start + 8 : len(wav) - (len(wav) - start) % 2], dtype="<i2")
        if start >= 0
        else np.zeros(0)
    )
    if len(samples) < ESPEAK_RATE // 10:
        raise UserError(
            f"espeak-ng said nothing for {text!r} with voice {voice.espeak_voice}; is its data installed?"
        )
    return samples


def resample(pieces: list[np.ndarray]) -> list[np.ndarray]:
    """Bring int16 pieces at 22.05 kHz to float32 (full scale 1) at 16 kHz with one call of sox.

    The filter rings before and after each piece: 20 ms of silence before it, which are cut off, and at least
    as much after it, which stay, keep the pieces apart.
    """
    # in blocks of 20 ms: the piece, begun or whole, and one before and one after it
    lengths = [len(piece) // ESPEAK_GRID + 3 for piece in pieces]
    joined = np.zeros(sum(lengths) * ESPEAK_GRID, dtype="<i2")
    ends = np.cumsum(lengths)
    for piece, end, length in zip(pieces, ends, lengths, strict=True):
        first = (end - length + 1) * ESPEAK_GRID
        joined[first : first + len(piece)] = piece
    # -D: no dither, and half the amplitude on the way, so that nothing clips between the samples
    # fmt: off
    command = ["sox", "-D", "-t", "raw", "-r", str(ESPEAK_RATE), "-e", "signed", "-b", "16", "-c", "1", "-",
               "-t", "raw", "-e", "float", "-b", "32", "-", "vol", "0.5", "rate", "-h", str(RATE)]
    # fmt: on
    samples = np.frombuffer(_run(command, joined.tobytes()), dtype="<f4") * 2
    if len(samples) != sum(lengths) * GRID:
        raise UserError(
            f"sox gave {len(samples)} samples where {sum(lengths) * GRID} were due; version 14.4.2 works"
        )
    return [
        samples[(end - length + 1) * GRID : end * GRID] for end, length in zip(ends, lengths, strict=True)
    ]


def _run(command: list[str], data: bytes = b"") -> bytes:
    # close_fds=False lets Python use posix_spawn, several times faster than a fork of a process that holds
    # numpy; its own descriptors are not inheritable anyway. The locale must not change what is spoken.
    done = subprocess.run(
        command, input=data, capture_output=True, close_fds=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        raise UserError(
            f"{command[0]} failed with status {done.returncode}: {done.stderr.decode(errors='replace')}"
        )
    return done.stdout
