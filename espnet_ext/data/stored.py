"""What stores of embeddings have in common, of speech and of text: settings, a summary, what a dump costs.

A store is a folder with ``settings.json``, plain values that decide what is in it, and ``summary.npz``, which
is written last: without it a store is not complete.
"""

import json
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import human, read_lines

SETTINGS_FILE, SUMMARY_FILE = "settings.json", "summary.npz"
#: In the settings; other numbers are other formats.
FORMAT = 2


def checksum(key: str, data: bytes) -> str:
    """CRC-32 of an entry of a store, its key included: eight hexadecimal digits."""
    return f"{zlib.crc32(data, zlib.crc32(key.encode())):08x}"


def read_settings(folder: Path, *names: str) -> dict:
    """Settings of a store: `size`, the numbers of an embedding, and at least those that are named.

    Raises:
        UserError: there is no store, or a damaged one.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        raise UserError(f"{folder}: holds no embeddings (no {SETTINGS_FILE}); run stage 7 (targets)")
    try:
        settings = json.loads("\n".join(line for _, line in read_lines(path)))
        int(settings["size"])
        if settings["format"] != FORMAT or any(settings[name] is None for name in names):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: is not what stage 7 (targets) writes; remove {folder}, run it again"
        ) from None
    return settings


def read_summary(folder: Path) -> dict[str, np.ndarray]:
    """Figures over all that is stored.

    Raises:
        UserError: the dump has not finished, or the file is damaged.
    """
    path = folder / SUMMARY_FILE
    if not path.exists():
        raise UserError(
            f"{folder}: is not complete (no {SUMMARY_FILE}); run stage 7 (targets), it goes on where it was"
        )
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: is damaged; remove it and run stage 7 (targets) again") from None


def check_disk(folder: Path, size: float, advice: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: to write to; it need not be there yet.
        size: bytes.
        advice: what else could be done, for the message.

    Raises:
        UserError: there is less room.
    """
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise UserError(
            f"{folder}: the embeddings need {human(size)}, the disk has {human(free)} left; {advice}"
        )


def duration(seconds: float) -> str:
    """Seconds, to read.

    >>> duration(42.4), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
