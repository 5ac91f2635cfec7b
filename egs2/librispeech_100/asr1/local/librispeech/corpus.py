"""LibriSpeech's own layout, read and checked.

``<subset>/<reader>/<chapter>/<reader>-<chapter>-<number>.flac`` with one ``<reader>-<chapter>.trans.txt`` a
chapter, and SPEAKERS.TXT beside the subsets.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from librispeech.subsets import MD5

FOLDER = "LibriSpeech"
_TRANS = ".trans.txt"


@dataclass(frozen=True)
class Utterance:
    """An utterance: its audio, its words (upper case, as LibriSpeech writes them), reader and chapter."""

    audio: Path
    transcript: str
    reader: str
    chapter: str


def find_corpus(given: Path) -> Path:
    """The folder with the subsets: ``given`` or ``given/LibriSpeech``.

    Raises:
        UserError: neither is there, or neither holds a subset.
    """
    if not given.is_dir():
        raise UserError(f"--data_dir {given}: no such folder ({given.absolute()})")
    for folder in (given / FOLDER, given):
        if any((folder / subset).is_dir() for subset in MD5):
            return folder
    raise UserError(
        f"--data_dir {given}: expected the folder {FOLDER} in it, or subsets such as "
        f"train-clean-100; found {_listing(given)}"
    )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def read_speakers(path: Path) -> dict[str, str]:
    """Read SPEAKERS.TXT: reader to gender, ``f`` or ``m``. Without the file nobody has one, and that is said.

    Raises:
        UserError: a line that is not ``reader | F or M | subset | minutes | name``.
    """
    if not path.exists():
        print(f"{path} is not there: no spk2gender is written", flush=True)
        return {}
    genders = {}
    for number, line in read_lines(path):
        if not line.strip() or line.startswith(";"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 4 or not fields[0].isdecimal() or fields[1] not in ("F", "M"):
            raise UserError(
                f"{path}:{number}: expected 'reader | F or M | subset | minutes | name', found {line!r}"
            )
        genders[fields[0]] = fields[1].lower()
    return genders


def read_subset(subset: Path) -> dict[str, Utterance]:
    """All utterances of a subset by id.

    Raises:
        UserError: transcripts and audio files do not fit each other, with file and line.
    """
    utterances: dict[str, Utterance] = {}
    for chapter in _folders(subset):
        utterances.update(_read_chapter(chapter))
    if not utterances:
        raise UserError(f"{subset}: no utterances; expected {subset}/<reader>/<chapter>/*{_TRANS} and *.flac")
    return utterances


def _folders(subset: Path) -> list[Path]:
    """Folders of chapters, ``<reader>/<chapter>``; both names are numbers."""
    return sorted(
        chapter
        for reader in subset.iterdir()
        if reader.is_dir() and reader.name.isdecimal()
        for chapter in reader.iterdir()
        if chapter.is_dir() and chapter.name.isdecimal()
    )


def _read_chapter(folder: Path) -> dict[str, Utterance]:
    reader, chapter = folder.parent.name, folder.name
    audio = {path.stem: path for path in folder.glob("*.flac")}
    transcripts = folder / f"{reader}-{chapter}{_TRANS}"
    if not transcripts.exists():
        if not audio:
            return {}
        raise UserError(f"{transcripts}: not there, but {len(audio)} audio files are; is the copy complete?")
    utterances: dict[str, Utterance] = {}
    lines: dict[str, int] = {}
    form = re.compile(rf"{reader}-{chapter}-\d+")
    for number, line in read_lines(transcripts):
        where = f"{transcripts}:{number}"
        name, _, words = line.partition(" ")
        if not form.fullmatch(name):
            raise UserError(f"{where}: expected '{reader}-{chapter}-<number> <WORDS>', found {line[:80]!r}")
        if name in lines:
            raise UserError(f"{where}: {name} occurs already in line {lines[name]}")
        if not words.strip():
            raise UserError(f"{where}: {name} has no words; is the line truncated?")
        if name not in audio:
            raise UserError(f"{where}: {folder / name}.flac does not exist; is the copy complete?")
        lines[name] = number
        utterances[name] = Utterance(audio[name], " ".join(words.split()), reader, chapter)
    if missing := sorted(audio.keys() - utterances.keys()):
        raise UserError(
            f"{audio[missing[0]]}: no transcript in {transcripts} ({len(missing)} such files in the chapter)"
        )
    return utterances
