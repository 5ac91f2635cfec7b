"""What stores of embeddings have in common, of speech and of text: settings, a summary, what a dump costs.

A store is a folder with ``settings.json``, plain values that decide what is in it, and ``summary.npz``, which
is written last: without it a store is not complete.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import human, read_lines

SETTINGS_FILE, SUMMARY_FILE = "settings.json", "summary.npz"
#: In the settings; other numbers are other formats.
FORMAT = 2
#: What to do about damage. A stage that is done is skipped, unless it is forced.
AGAIN = "run stage 7 (targets) again, with --force"


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
            f"{path}: is not what stage 7 (targets) writes; remove {folder}, run it again, with --force"
        ) from None
    return settings


def read_summary(folder: Path, shapes: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    """Figures over all that is stored.

    Args:
        folder: of the store.
        shapes: see `read_arrays`.

    Raises:
        UserError: the dump has not finished, or the file is damaged.
    """
    path = folder / SUMMARY_FILE
    if not path.exists():
        raise UserError(
            f"{folder}: is not complete (no {SUMMARY_FILE}); run stage 7 (targets), it goes on where it was"
        )
    return read_arrays(path, shapes, f"remove it and {AGAIN}")


def read_arrays(path: Path, shapes: Mapping[str, tuple], advice: str) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`.

    Args:
        path: of the file.
        shapes: of those it must hold; None stands for any size.
        advice: what to do with a damaged file, for the message.

    Raises:
        UserError: it is damaged: not readable, or an array is absent or of another shape.
    """
    try:
        with zipfile.ZipFile(path) as file:  # numpy reads no checksum where a header speaks of fewer numbers
            whole = file.testzip() is None
        with np.load(path, allow_pickle=False) as file:
            found = dict(file) if whole else {}
    except (PermissionError, FileNotFoundError):
        raise
    except Exception:  # numpy and zipfile raise a dozen types, NotImplementedError and RuntimeError too
        whole = False
    if not whole:
        raise UserError(f"{path}: is damaged; {advice}")
    for name, shape in shapes.items():
        # A byte of the file's table of contents is enough for an array to be absent.
        if name not in found:
            raise UserError(f"{path}: is damaged (no {name}); {advice}")
        there = found[name].shape
        if len(there) != len(shape) or any(n not in (None, m) for n, m in zip(shape, there, strict=True)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise UserError(f"{path}: is damaged ({name} is of shape {there}, not ({wanted})); {advice}")
    return found


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
