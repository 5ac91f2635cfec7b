"""Recordings for the page: links to the files where they are, and a few in the page itself.

A page that is moved loses its links and keeps what is embedded.
"""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from espnet_ext.data.kaldi import read_table
from espnet_ext.errors import UserError

_PLAYED = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"}


class Player:
    """Finds recordings of utterances.

    Args:
        out_dir: where the page will be; links are relative to it.
        room: bytes of recordings to embed, at most.
    """

    def __init__(self, out_dir: Path, room: int):
        self.out_dir, self.room = out_dir.resolve(), room
        self.embedded: dict[str, str] = {}  # key -> data URL
        self.notes: list[str] = []

    def urls(self, data_dir: Path | None, names: Sequence[str], first: Sequence[int]) -> list | None:
        """For each utterance a link, a key of `embedded`, or None; None if there is no audio at all.

        Args:
            data_dir: Kaldi-style folder of the set, with wav.scp and maybe segments.
            names: utterances.
            first: those to embed, in this order, as far as there is room.
        """
        if data_dir is None or not (data_dir / "wav.scp").is_file():
            return None
        try:
            files = read_table(data_dir / "wav.scp").rows
            cuts = _segments(data_dir / "segments")
        except (UserError, ValueError) as error:
            self.notes.append(f"no audio of {data_dir}: {error}")
            return None
        root = _root(data_dir, next(iter(files.values()), ""))
        found: list = []
        for name in names:
            path = files.get(name)
            linked = path is not None and not cuts and Path(path).suffix.lower() in _PLAYED
            found.append(quote(os.path.relpath(root / path, self.out_dir)) if linked else None)
        for at in first:
            recording, *cut = cuts.get(names[at], ("",)) if cuts else (names[at], 0.0, None)
            key = f"{data_dir.name}/{names[at]}"
            if recording in files and self._embed(key, root / files[recording], *cut):
                found[at] = key
        return found if any(found) else None

    def _embed(self, key: str, file: Path, start: float, end: float | None) -> bool:
        import soundfile

        if key in self.embedded:
            return True
        if self.room <= 0:
            return False
        try:
            rate = soundfile.info(file).samplerate
            stop = None if end is None else round(end * rate)
            samples, rate = soundfile.read(file, start=round(start * rate), stop=stop, dtype="int16")
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, rate, format="FLAC")
        except (OSError, RuntimeError, ValueError):  # RuntimeError: soundfile's own
            return False
        text = base64.b64encode(buffer.getvalue()).decode()
        if len(text) > self.room:
            return False
        self.room -= len(text)
        self.embedded[key] = f"data:audio/flac;base64,{text}"
        return True


def _segments(path: Path) -> dict[str, tuple[str, float, float]]:
    if not path.is_file():
        return {}
    rows = read_table(path).rows
    return {name: (row.split()[0], *map(float, row.split()[1:3])) for name, row in rows.items()}


def _root(data_dir: Path, example: str) -> Path:
    """The folder that paths of wav.scp are relative to: a recipe's, somewhere above its sets."""
    for folder in data_dir.absolute().parents:
        if (folder / example).is_file():
            return folder
    return Path()
