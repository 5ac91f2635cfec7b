"""Kaldi-style data directories, checked once at the door.

``wav.scp`` (recording, path), ``text`` (utterance, transcript), ``utt2spk``, ``spk2utt`` and, where
recordings hold several utterances, ``segments`` (utterance, recording, start, end in seconds). UTF-8, one
entry a line, sorted by the bytes of the id, each id once.

An id is any string without white space and control characters: quotes, ``;``, ``$()`` and ``/`` are legal. So
an id never becomes part of a command line or of a file name anywhere in this package.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines

_LINE = re.compile(r"([^ \t]+)(?:[ \t]+(.*))?", re.DOTALL)
_NOT_IN_AN_ID = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff]")
_NOT_IN_A_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
#: How many offending ids a message shows.
_SHOWN = 5


@dataclass
class Table:
    """One file of a data directory: ``rows`` maps each id, in file order, to the rest of its line."""

    path: Path
    rows: dict[str, str] = field(default_factory=dict)
    _lines: dict[str, int] | None = None

    def where(self, key: str) -> str:
        """``file:line`` of an id, for messages. (No line is blank, so counting rows counts lines.)"""
        if self._lines is None:
            self._lines = {each: number for number, each in enumerate(self.rows, 1)}
        return f"{self.path}:{self._lines[key]}"


def read_table(path: str | os.PathLike, *, empty_values: bool = False, value: str = "value") -> Table:
    """Read one ``<id> <value>`` file.

    Args:
        path: the file.
        empty_values: whether an id may stand alone (a transcript may be empty, a path may not).
        value: what a value is called in messages.

    Returns:
        The table; values are stripped of surrounding white space.

    Raises:
        UserError: absent, empty, not UTF-8, truncated, unsorted, or an id that is malformed or occurs twice.
    """
    path = Path(path)
    table = Table(path)
    rows = table.rows
    previous = ""
    for number, line in read_lines(path):
        key, rest = _split(f"{path}:{number}", line, value, empty_values)
        if key in rows:
            raise UserError(
                f"{path}:{number}: id {key!r} occurs already in {table.where(key)}; ids must be unique "
                "and cannot contain spaces"
            )
        if key < previous:
            raise UserError(
                f"{path}:{number}: {key!r} stands after {previous!r}: the file is not sorted by the "
                f"bytes of its ids; sort it with `LC_ALL=C sort -o {_quoted(path)} {_quoted(path)}`"
            )
        rows[key] = rest
        previous = key
    if not rows:
        raise UserError(f"{path}: the file is empty; expected lines of the form '<id> <{value}>'")
    _check_last_newline(path, len(rows))
    return table


def _split(where: str, line: str, value: str, empty_values: bool) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        what = "begins with a space or tab" if line.strip() else "is blank"
        raise UserError(f"{where}: the line {what}; expected '<id> <{value}>'")
    key, rest = match[1], (match[2] or "").strip()
    if key.startswith("\ufeff"):
        file = _quoted(where.rpartition(":")[0])
        raise UserError(
            f"{where}: the line begins with a byte order mark, which would be part of the id; "
            f"remove it with `sed -i '1s/^\\xEF\\xBB\\xBF//' {file}`"
        )
    if bad := _NOT_IN_AN_ID.search(key):
        raise UserError(
            f"{where}: id {key!r} contains the character {bad[0]!r}; ids may hold neither white space "
            "nor control characters nor a byte order mark"
        )
    if bad := _NOT_IN_A_VALUE.search(rest):
        raise UserError(f"{where}: the {value} of {key!r} contains the control character {bad[0]!r}")
    if not rest and not empty_values:
        raise UserError(
            f"{where}: id {key!r} has no {value}; expected '<id> <{value}>' (is the line truncated?)"
        )
    return key, rest


def _check_last_newline(path: Path, lines: int) -> None:
    with open(path, "rb") as handle:
        handle.seek(-1, os.SEEK_END)
        if handle.read(1) != b"\n":
            raise UserError(
                f"{path}:{lines}: the last line does not end with a newline, so the file may be truncated; "
                f"if it is complete, append one: `echo >> {_quoted(path)}`"
            )


def _quoted(path: str | Path) -> str:
    import shlex

    return shlex.quote(str(path))


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording: ``start`` and ``end`` in seconds, ``end`` None for the recording's end."""

    recording: str
    start: float
    end: float | None


class DataDir:
    """A validated data directory.

    Attributes:
        path: the directory.
        wav: ``wav.scp``: recording id to path.
        text: ``text``: utterance id to transcript, None for unlabelled sets.
        utt2spk: utterance id to speaker id.
        segments: utterance id to Segment, None where every recording is one utterance.
        segments_table: the rows behind ``segments``, for messages.
    """

    def __init__(self, path: str | os.PathLike, *, need_text: bool = False):
        """Read and check the directory.

        Args:
            path: the directory.
            need_text: whether a set without transcripts is an error.

        Raises:
            UserError: the first thing that is wrong, with file and line.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such data directory; expected wav.scp, utt2spk and text in it")
        self.wav = read_table(self.path / "wav.scp", value="path")
        for key, value in self.wav.rows.items():
            if value.endswith("|") or value.startswith("|"):
                raise UserError(
                    f"{self.wav.where(key)}: {value!r} is a command; commands in data directories are "
                    "never run. Write its output to an audio file and name that file here"
                )
        self.segments, self.segments_table = self._read_segments()
        self.utt2spk = read_table(self.path / "utt2spk", value="speaker")
        for key, value in self.utt2spk.rows.items():
            if _NOT_IN_AN_ID.search(value):
                raise UserError(
                    f"{self.utt2spk.where(key)}: expected '<utterance> <speaker>', found the further "
                    f"field(s) {value.split(maxsplit=1)[1]!r}; ids cannot contain spaces"
                )
        self.text = None
        if need_text or (self.path / "text").exists():
            self.text = read_table(self.path / "text", value="transcript", empty_values=True)
        audio = self.segments_table or self.wav
        for other in filter(None, (self.text, self.utt2spk)):
            _check_same_ids(other, audio)
        if (self.path / "spk2utt").exists():
            self._check_spk2utt()

    def __len__(self) -> int:
        return len(self.utt2spk.rows)

    def __iter__(self):
        """Utterance ids in sorted order."""
        return iter(self.utt2spk.rows)

    def where_audio(self, utterance: str) -> str:
        """``file:line`` that says where the audio of an utterance is."""
        return (self.segments_table or self.wav).where(utterance)

    def check_audio_files(self) -> None:
        """Raise a UserError if audio files do not exist; it names the first and says how many."""
        absent = [key for key, value in self.wav.rows.items() if not os.path.isfile(value)]
        if absent:
            message = no_such_audio(self.wav.rows[absent[0]], self.wav.where(absent[0]))
            raise UserError(f"{message}; so it is with {len(absent)} of {len(self.wav.rows)} recordings")

    def audio_stamp(self) -> str:
        """A checksum of name, size and time of change of every audio file: another one, other audio."""
        digest = hashlib.sha256()
        for key, value in self.wav.rows.items():
            about = os.stat(value)
            digest.update(f"{key}\0{value}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _read_segments(self) -> tuple[dict[str, Segment] | None, Table | None]:
        path = self.path / "segments"
        if not path.exists():
            return None, None
        table = read_table(path, value="recording start end")
        segments = {}
        for key, value in table.rows.items():
            segments[key] = _parse_segment(table.where(key), value)
            if segments[key].recording not in self.wav.rows:
                raise UserError(
                    f"{table.where(key)}: recording {segments[key].recording!r} of {key!r} is not in "
                    f"{self.wav.path}"
                )
        return segments, table

    def _check_spk2utt(self) -> None:
        table = read_table(self.path / "spk2utt", value="utterances")
        expected = spk2utt(self.utt2spk.rows)
        for speaker, value in table.rows.items():
            if sorted(value.split()) != expected.pop(speaker, None):
                raise UserError(
                    f"{table.where(speaker)}: the utterances of speaker {speaker!r} differ from those in "
                    f"{self.utt2spk.path}; spk2utt may be left out, it follows from utt2spk"
                )
        if expected:
            speaker = next(iter(expected))
            raise UserError(
                f"{table.path}: speaker {speaker!r} of {self.utt2spk.where(expected[speaker][0])} is missing"
            )


def _parse_segment(where: str, value: str) -> Segment:
    fields = value.split()
    try:
        recording, start, end = fields[0], float(fields[1]), float(fields[2])
        well_formed = (
            len(fields) == 3 and 0 <= start < float("inf") and (start < end < float("inf") or end == -1)
        )
    except (IndexError, ValueError):
        well_formed = False
    if not well_formed:
        raise UserError(
            f"{where}: expected '<utterance> <recording> <start> <end>' with 0 <= start < end in seconds "
            f"(end -1: to the end of the recording), found {value!r}"
        )
    return Segment(recording, start, None if end == -1 else end)


def _check_same_ids(table: Table, audio: Table) -> None:
    if table.rows.keys() == audio.rows.keys():
        return
    for one, other in ((table, audio), (audio, table)):
        absent = [key for key in one.rows if key not in other.rows]
        if absent:
            shown = ", ".join(f"{key!r} (line {one.where(key).rsplit(':', 1)[1]})" for key in absent[:_SHOWN])
            raise UserError(
                f"{one.where(absent[0])}: {len(absent)} of {len(one.rows)} ids of {one.path} are not in "
                f"{other.path}: {shown}{', ...' if len(absent) > _SHOWN else ''}; "
                "both files must list the same utterances"
            )


def no_such_audio(path: str, where: str) -> str:
    """The message for a path of ``wav.scp`` (named at ``where``) that is no file."""
    what = "is not a file" if os.path.exists(path) else "does not exist"
    message = f"{where}: audio file {path!r} {what} (relative paths start at {os.getcwd()})"
    rest = path.split(maxsplit=1)[-1]
    if rest != path and os.path.isfile(rest):
        message += f"; but {rest!r} does: is the part before it the end of an id? ids cannot contain spaces"
    return message


def spk2utt(utt2spk: dict[str, str]) -> dict[str, list[str]]:
    """Speaker id to its sorted utterance ids, speakers sorted.

    >>> spk2utt({"a-1": "a", "b-1": "b", "a-2": "a"})
    {'a': ['a-1', 'a-2'], 'b': ['b-1']}
    """
    speakers: dict[str, list[str]] = {}
    for utterance, speaker in utt2spk.items():
        speakers.setdefault(speaker, []).append(utterance)
    return {speaker: sorted(speakers[speaker]) for speaker in sorted(speakers)}


def write_table(path: str | os.PathLike, rows: dict[str, object]) -> None:
    """Write ``<id> <value>`` lines sorted by id. (Code point order is the byte order of UTF-8.)"""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for key in sorted(rows):
            handle.write(f"{key} {rows[key]}\n")


def write_speakers(folder: Path, utt2spk: dict[str, str]) -> None:
    """Write ``utt2spk`` and ``spk2utt``."""
    write_table(folder / "utt2spk", utt2spk)
    write_table(folder / "spk2utt", {speaker: " ".join(ids) for speaker, ids in spk2utt(utt2spk).items()})
