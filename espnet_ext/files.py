"""Files that are either whole or absent: everything is written beside its target and renamed at the end."""

import codecs
import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.errors import UserError

_HOST = socket.gethostname()


def _beside(target: Path) -> Path:
    """A temporary directory in the target's own folder: only there is a rename atomic."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    prefix = f".{target.name}.{_HOST}-{os.getpid()}."
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=target.parent))


def _remove_abandoned(target: Path) -> None:
    """Remove what a killed process of this machine left beside the target; it would fill the disk unseen."""
    prefix = f".{target.name}.{_HOST}-"
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(".tmp"):
            process = path.name.removeprefix(prefix).split(".")[0]
            if process.isdigit() and not os.path.exists(f"/proc/{process}"):
                shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk, so that a power cut leaves no empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(error: OSError, temporary: Path, target: Path) -> None:
    """Have an error speak of the target: nobody knows the temporary file, and it vanishes."""
    for name in (error.filename2, error.filename):  # of two, the second one is written to
        if isinstance(name, (str, bytes)) and (path := Path(os.fsdecode(name))).is_relative_to(temporary):
            error.filename = str(target / path.relative_to(temporary))
            if error.filename2 is not None:
                del error.filename2  # None would be printed
            return


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``target`` when the block ends well and vanishes when it does not.

    The yielded path has the target's own name (and so its suffix), inside a temporary folder beside it.
    """
    target = Path(target)
    folder = _beside(target)
    temporary = folder / target.name
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        # A write that fails (a full disk, a quota) does not know the name of its file, and one that cannot
        # replace the target (a folder, for instance) names the temporary file first.
        if error.errno is not None and (error.filename is None or error.filename2 == str(target)):
            error.filename = str(target)
        _name(error, temporary, target)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_dir(target: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty directory to fill; it replaces ``target`` when the block ends well, else it vanishes."""
    target = Path(target)
    folder = _beside(target)
    temporary = folder / target.name
    try:
        temporary.mkdir()
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file() and not path.is_symlink():
                sync(path)
        if target.exists():
            os.replace(target, folder / "replaced")
        os.replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        _name(error, temporary, target)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def human(size: float) -> str:
    """Bytes, to read.

    >>> human(12), human(34_567_890), human(999_900)
    ('12 bytes', '34.6 MB', '1 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its newline) of a UTF-8 text file.

    Raises:
        UserError: the file is absent, or a line is not UTF-8 (the message names file and line).
    """
    try:
        handle = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with handle:
        for number, raw in enumerate(handle, 1):
            try:
                yield number, raw.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                wide = number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                raise UserError(
                    f"{path}:{number}: not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1}); "
                    f"convert the file, for example with `iconv -f {'UTF-16' if wide else 'LATIN1'} -t UTF-8`"
                ) from None


def read_json(path: Path) -> dict:
    """A JSON mapping.

    Raises:
        UserError: no such file, or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found
