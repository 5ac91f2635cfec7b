"""From a data directory to its utterances' samples: the work list, and reading one recording of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from espnet_ext.data.audio import Audio, read_audio
from espnet_ext.data.kaldi import DataDir, Segment
from espnet_ext.data.pool import parts
from espnet_ext.errors import UserError

#: How far, in seconds, a segment may reach past its recording's end (Kaldi's own tolerance); it is cut there.
OVERSHOOT = 0.5
#: Faults that are collected before a stage ends; with more of them something is wrong with all recordings.
FAULTS = 10
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


def read_recordings(
    recordings: Iterable[Recording], faults: list[str]
) -> Iterator[tuple[Recording, Audio, list[tuple[Utterance, np.ndarray]]]]:
    """Yield (recording, its whole audio, its utterances as `read_recording` cuts them).

    A recording that cannot be read is left out, and its message added to ``faults``: a corpus may hold
    several, and nobody should have to find them one run at a time.
    """
    for recording in recordings:
        try:
            audio, cuts = read_recording(recording)
            utterances = list(cuts)
        except UserError as error:
            faults.append(str(error))
        else:
            yield recording, audio, utterances


class Faults:
    """Recordings that could not be read, as all parts of a stage report them."""

    def __init__(self):
        self.messages: dict[str, None] = {}  # in order, each once

    def add(self, messages: Iterable[str]) -> None:
        """Add those of a part.

        Raises:
            UserError: there are more than `FAULTS`.
        """
        self.messages.update(dict.fromkeys(messages))
        if len(self.messages) > FAULTS:
            self._refuse(list(self.messages)[:FAULTS], "and more, the rest has not been read")

    def check(self) -> None:
        """After the last part.

        Raises:
            UserError: there are some; the message has a line for each.
        """
        if self.messages:
            self._refuse(list(self.messages))

    def _refuse(self, messages: list[str], *last: str) -> None:
        raise UserError("\n  ".join([*messages, *last]))


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
