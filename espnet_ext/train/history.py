"""What a training was like: running means, one row an epoch, a CSV and tensorboard."""

import csv
import io
import math
from pathlib import Path

import torch

from espnet_ext.files import atomic_write_text


class Means:
    """Weighted means of named values. Tensors stay on their device until they are asked for."""

    def __init__(self, state: dict[str, list[float]] | None = None):
        self._sums: dict[str, list] = {name: list(pair) for name, pair in (state or {}).items()}

    def add(self, values: dict[str, tuple[torch.Tensor | float, float]]) -> None:
        """Add `name: (sum, weight)`; the mean is the total of sums over the total of weights."""
        for name, (total, weight) in values.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] = entry[0] + (total.detach() if isinstance(total, torch.Tensor) else total)
            entry[1] += weight

    def state(self) -> dict[str, list[float]]:
        return {name: [float(total), float(weight)] for name, (total, weight) in self._sums.items()}

    def means(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self.state().items() if weight}


class History:
    """Rows of epochs; every write gives the whole file, so that a resumed run leaves no row twice."""

    def __init__(
        self, folder: Path, rows: list[dict] | None = None, tensorboard: bool = False, step: int = 0
    ):
        """Go on from ``rows`` at ``step``; what was logged after it in a run that was killed is discarded."""
        self.folder = folder
        self.rows = rows or []
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Figures within an epoch, for tensorboard alone."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"step/{name}", value, step)

    def add(self, row: dict, write: bool = True) -> None:
        """Append an epoch: `epoch`, `step`, `seconds` and any named figures; ``write`` it to the file."""
        self.rows.append(row)
        if not write:
            return
        self.write()
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self._writer.add_scalar(name, value, row["step"])
            self._writer.flush()

    def write(self) -> None:
        """Write `history.csv`, which then holds the rows of now and no other; without any there is none."""
        if not self.rows:
            (self.folder / "history.csv").unlink(missing_ok=True)
            return
        names = list(dict.fromkeys(name for each in self.rows for name in each))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        atomic_write_text(self.folder / "history.csv", buffer.getvalue())

    def best(self, name: str, mode: str, count: int) -> list[int]:
        """Epochs with the ``count`` best values of a column, best first; of equal ones the earlier.

        One whose value is not a number is none of them, unless there is no other.
        """
        scored = [(row[name], row["epoch"]) for row in self.rows if name in row]
        scored = [pair for pair in scored if not math.isnan(pair[0])] or scored
        sign = -1 if mode == "max" else 1
        return [epoch for _, epoch in sorted(scored, key=lambda pair: (sign * pair[0], pair[1]))[:count]]
