"""Keeping the best epochs' models of a module, by any number of criteria."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text, read_json
from espnet_ext.train.checkpoint import save_tensors
from espnet_ext.train.history import History


def read_nbest(folder: Path) -> dict:
    """What the `nbest.json` of a training says.

    Returns:
        `criterion` and `epochs`, the best first, of the first criterion; `criteria`: the same of each.

    Raises:
        UserError: it is absent or damaged.
    """
    path = folder / "nbest.json"
    found = read_json(path)
    every = found.get("criteria", [])
    if not isinstance(every, list) or not all(map(_is_ranking, [found, *every])):
        raise UserError(
            f"{path}: is damaged (expected `criterion` and `epochs`, the best first); run the stage of its "
            "training again, with --force"
        )
    return found


def _is_ranking(one) -> bool:
    if not isinstance(one, dict):
        return False
    criterion, epochs = one.get("criterion"), one.get("epochs")
    named = isinstance(criterion, list) and all(isinstance(word, str) for word in criterion)
    return (
        named
        and len(criterion) == 3
        and isinstance(epochs, list)
        and bool(epochs)
        and all(type(e) is int for e in epochs)
    )


class BestModels:
    """The `<epoch>epoch.pth` files of one folder.

    Rule: an epoch's file stays while it is among the best of a criterion now, or was when the checkpoint
    before the newest was written, so that a training that falls back to that one finds all that it knows of.

    Args:
        folder: where the files and `nbest.json` are.
        module: whose state dict they hold.
        criteria: (split, figure, min or max); the first is the one that export takes by default.
        count: how many epochs of each criterion.
    """

    def __init__(self, folder: Path, module: torch.nn.Module, criteria, count: int):
        self.folder, self.module, self.criteria, self.count = folder, module, list(criteria), count
        self._before: set[int] = set()  # the best as of the checkpoint before the newest

    def save(self, epoch: int) -> None:
        """Write the module as it is at the end of an epoch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / f"{epoch}epoch.pth") as temporary:
            save_tensors(self.module.state_dict(), temporary)

    def rank(self, history: History) -> None:
        """Write `nbest.json` from the epochs so far."""
        ranked = self._ranked(history)
        atomic_write_text(
            self.folder / "nbest.json", json.dumps({**ranked[0], "criteria": ranked}, indent=1) + "\n"
        )
        self._now = {epoch for each in ranked for epoch in each["epochs"]}

    def _ranked(self, history: History) -> list[dict]:
        return [
            {"criterion": list(each), "epochs": history.best(f"{each[0]}_{each[1]}", each[2], self.count)}
            for each in self.criteria
        ]

    def check(self, rows: list[dict]) -> None:
        """Refuse criteria whose figure no epoch has; a method may have one in some epochs alone.

        Raises:
            UserError: naming those that there are.
        """
        names = list(dict.fromkeys(name for row in rows for name in row))
        for split, figure, mode in self.criteria:
            there = [name.removeprefix(f"{split}_") for name in names if name.startswith(f"{split}_")]
            if there and figure not in there:  # an epoch of skipped steps has none at all
                what = "validation" if split == "valid" else "training"
                raise UserError(
                    f"--best_model_criterion {split} {figure} {mode}: the {what} has no {figure}; it has "
                    f"{', '.join(there)}"
                )

    def forget(self) -> None:
        """Remove the files that are no longer needed; called after the checkpoint of an epoch's end."""
        for epoch, path in self._files():
            if self._now and epoch not in self._now | self._before:
                path.unlink()
        self._before = self._now

    def resume(self, history: History, epoch: int) -> None:
        """Go on from a checkpoint after ``epoch`` epochs; files of later ones will be written again."""
        if epoch:
            self.rank(history)
        else:
            (self.folder / "nbest.json").unlink(missing_ok=True)
        self._before = {each for one in self._ranked(history) for each in one["epochs"]}
        for number, path in self._files():
            if number > epoch:
                path.unlink()

    def latest(self) -> int:
        """The latest epoch of which there is a file, else 0."""
        return max((number for number, _ in self._files()), default=0)

    def _files(self) -> Iterator[tuple[int, Path]]:
        """(epoch, file) of the epochs that are there; a file that somebody else called so is left alone."""
        for path in list(self.folder.glob("*epoch.pth")):
            if (number := path.name.removesuffix("epoch.pth")).isdigit():
                yield int(number), path
