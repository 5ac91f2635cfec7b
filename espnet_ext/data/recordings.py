"""From a data directory to its utterances' samples: the work list, and reading one recording of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espnet_ext.data.audio import Audio, read_audio
from espnet_ext.data.kaldi import DataDir, Segment
from espnet_ext.data.pool import parts
from espnet_ext.errors import UserError

#: How far, in seconds, a segment may reach past its recording's end (Kaldi's own tolerance); it is cut there.
OVERSHOOT = 0.5
_PART = 40


@dataclass(frozen=True)
class Utterance:
    """An utterance to be cut from a recording; ``index`` counts utterances in order and names files."""

    index: int
    name: str
    where: str
    segment: Segment | None


@dataclass(frozen=True)
class Recording:
    """An audio file and the utterances in it; ``where`` is the file:line that names it."""

    path: str
    where: str
    utterances: tuple[Utterance, ...]


def work_list(data: DataDir) -> list[list[Recording]]:
    """The recordings of a directory in parts of a fixed size, whatever the number of processes."""
    by_recording: dict[str, list[Utterance]] = {}
    for index, name in enumerate(data):
        segment = data.segments[name] if data.segments else None
        utterance = Utterance(index, name, data.where_audio(name), segment)
        by_recording.setdefault(segment.recording if segment else name, []).append(utterance)
    recordings = [
        Recording(data.wav.rows[key], data.wav.where(key), tuple(utterances))
        for key, utterances in by_recording.items()
    ]
    return parts(recordings, _PART)


def read_recording(recording: Recording) -> tuple[Audio, Iterator[tuple[Utterance, np.ndarray]]]:
    """Decode a recording.

    Returns:
        The whole audio, and an iterator over (utterance, its samples (T, C)).

    Raises:
        UserError: the file is unreadable, or a segment lies outside it.
    """
    audio = read_audio(recording.path, recording.where)
    return audio, ((utterance, _cut(audio, utterance)) for utterance in recording.utterances)


def _cut(audio: Audio, utterance: Utterance) -> np.ndarray:
    segment = utterance.segment
    if segment is None:
        return audio.samples
    length = len(audio.samples)
    start = round(segment.start * audio.rate)
    end = length if segment.end is None else round(segment.end * audio.rate)
    if start >= length or end > length + OVERSHOOT * audio.rate:
        raise UserError(
            f"{utterance.where}: the segment of {utterance.name!r} reaches to {end / audio.rate:.2f} s, but "
            f"recording {segment.recording!r} has {length / audio.rate:.2f} s"
        )
    return audio.samples[start : min(end, length)]
