"""The output directory of a stage: written beside its place, and put there whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_dir

#: A folder of somebody else, or a disk that is mounted read-only.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def output_dir(out_dir: Path, marker: str, *inputs: Path) -> Iterator[Path]:
    """Yield a directory to fill, which replaces ``out_dir`` at the end if all went well.

    Args:
        out_dir: the directory to be replaced.
        marker: a file that every directory written by this stage holds.
        inputs: directories that the stage reads.

    Raises:
        UserError: ``out_dir`` may not be written or holds something that this stage did not write, or the
            disk is full.
    """
    _check(out_dir, marker, inputs)
    try:
        with atomic_dir(out_dir) as temporary:
            yield temporary
    except OSError as error:
        if error.errno in _FORBIDDEN and error.filename is not None and _around(out_dir, error.filename):
            raise UserError(
                f"{out_dir}: may not be written: {error.strerror} ({error.filename}); choose another folder "
                "(of a recipe: --token_listdir, --dumpdir, --expdir or --datadir)"
            ) from None
        # An error while writing has no file name (a full disk, a quota); others name the file themselves.
        if error.filename is not None or error.strerror is None:
            raise
        raise UserError(
            f"{out_dir}: cannot be written: {error.strerror}; nothing was left behind, "
            "make room and run the stage again"
        ) from None


def _around(out_dir: Path, name: str | bytes) -> bool:
    """Whether a path lies beside or in a directory, or above it."""
    path, parent = Path(os.fsdecode(name)).absolute(), out_dir.absolute().parent
    return path.is_relative_to(parent) or parent.is_relative_to(path)


def _check(out_dir: Path, marker: str, inputs: tuple[Path, ...]) -> None:
    for source in inputs:
        if out_dir.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(f"--out_dir {out_dir} would replace the input {source}; name another directory")
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UserError(f"--out_dir {out_dir} is a file; name a directory")
    if any(out_dir.iterdir()) and not (out_dir / marker).exists():
        raise UserError(
            f"--out_dir {out_dir} exists and was not written by this command (it holds no {marker!r}); "
            "remove it or name another directory"
        )
