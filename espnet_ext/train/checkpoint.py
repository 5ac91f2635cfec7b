"""Checkpoints that are whole or absent, and a previous one to fall back to."""

import os
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path

NAME = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"


def save(state: dict, folder: Path) -> None:
    """Write the state of a training; the checkpoint before it is kept beside it.

    Args:
        state: tensors and plain values only, so that reading it back never runs code.
        folder: the experiment.
    """
    with atomic_path(folder / NAME) as temporary:
        torch.save(state, temporary)
        if (folder / NAME).exists():
            # A second name for the old file, so that at no moment there is none.
            _link(folder / NAME, folder / PREVIOUS)


def load(folder: Path) -> dict | None:
    """Newest readable checkpoint of an experiment, or None if there is none at all.

    Raises:
        UserError: there are checkpoints and none can be read.
    """
    troubles = []
    for name in (NAME, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged archive raises anything from EOFError to RuntimeError
            troubles.append(f"{path}: damaged ({type(error).__name__})")
            continue
        for trouble in troubles:
            print(f"warning: {trouble}; going on from {path}", flush=True)
        return state
    if troubles:
        raise UserError("; ".join(troubles) + "; remove them to start the training again from its beginning")
    return None


def _link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
