"""Checkpoints that are whole or absent, with a checksum each and a previous one to fall back to.

`checkpoint.sha256` lists the checksums that a checkpoint of this folder may have, newest first. A new one is
entered there before its file gets its name, so that at no moment a good file lacks its line.
"""

import hashlib
import os
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text, sync

NAME = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"
CHECKSUMS = "checkpoint.sha256"
#: Lines that the list keeps. Each save that is killed behind its line pushes those of the two good files
#: further down.
_LINES = 100


def save(state: dict, folder: Path) -> None:
    """Write the state of a training; the checkpoint before it is kept beside it.

    Args:
        state: tensors and plain values only, so that reading it back never runs code.
        folder: the experiment.

    Raises:
        OSError: the disk is full, for instance; the checkpoints that were there are untouched.
    """
    with atomic_path(folder / NAME) as temporary:
        save_tensors(state, temporary)
        # A disk may say only now that it is full; until it has it all, what was there stays as it is.
        sync(temporary)
        new = _checksum(temporary)
        sums = _checksums(folder)
        if sums is None:  # those that are there would be taken for damaged beside a list without them
            sums = [_checksum(each) for each in (folder / NAME, folder / PREVIOUS) if each.exists()]
        atomic_write_text(folder / CHECKSUMS, "".join(f"{each}\n" for each in [new, *sums][:_LINES]))
        if (folder / NAME).exists() and _checksum(folder / NAME) in sums:
            # A second name for the old file, so that at no moment there is none. A damaged one does not take
            # the place of the one before.
            _link(folder / NAME, folder / PREVIOUS)


def load(folder: Path) -> dict | None:
    """Newest whole checkpoint of an experiment, or None if there is none at all.

    One without the list of checksums is taken, with a warning: somebody has copied the file alone. No stop
    inside `save` leaves one.

    Raises:
        UserError: there are checkpoints and none is whole.
    """
    troubles = []
    sums = _checksums(folder)
    for name in (NAME, PREVIOUS):
        path = folder / name
        if not path.exists():
            if name == NAME and (folder / PREVIOUS).exists():
                troubles.append(f"{path}: is not there")
            continue
        trouble = "its checksum is not one of checkpoint.sha256"
        if sums is None or _checksum(path) in sums:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged archive raises anything from EOFError to RuntimeError
                trouble = type(error).__name__
            else:
                if sums is None:
                    troubles.append(
                        f"{folder / CHECKSUMS}: is not there, or damaged: nothing shows whether {name} is as "
                        "it was written"
                    )
                for each in troubles:
                    print(f"warning: {each}; going on from {path}", flush=True)
                return state
        troubles.append(f"{path}: damaged ({trouble})")
    if troubles:
        raise UserError(
            f"{'; '.join(troubles)}; put back a copy, remove {CHECKSUMS} if that alone is damaged, or move "
            "the folder away to start the training again from its beginning"
        )
    return None


def remove(folder: Path) -> bool:
    """Remove the checkpoints of an experiment that begins anew; a later resume would take them for its own.

    Returns:
        whether there was one.
    """
    there = (folder / NAME).exists() or (folder / PREVIOUS).exists()
    for name in (NAME, PREVIOUS, CHECKSUMS):
        (folder / name).unlink(missing_ok=True)
    return there


def save_tensors(state: dict | list, path: Path) -> None:
    """`torch.save`, whose failure to write is an OSError as any other file's, with the file's name.

    Raises:
        OSError: the disk is full or a quota is reached, for instance.
    """
    try:
        # Of a file that torch opens itself it says no more than that a position is wrong, whatever the cause.
        with open(path, "wb") as handle:
            torch.save(state, handle)
    except (OSError, RuntimeError) as error:
        # torch closes its archive all the same, and complains of that while the write's error is handled.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None


def _checksum(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checksums(folder: Path) -> list[str] | None:
    """Lines of the list, None where there is none (checkpoints that were copied by themselves)."""
    try:
        return (folder / CHECKSUMS).read_text(encoding="ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
