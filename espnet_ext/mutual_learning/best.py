"""After the training: each peer's folder is an experiment, and the best peer is the experiment's model."""

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.asr.load import read_config
from espnet_ext.asr.task import dump_config
from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.train.export import INFERENCE_KEYS
from espnet_ext.train.nbest import read_nbest


def present_best(folder: Path, names: Sequence[str], criterion: tuple[str, str, str]) -> str:
    """Write what makes each peer's folder a finished experiment, and stand the best peer in their parent.

    The best peer is that with the best epoch on the validation data (of equal ones the first), never on what
    it is tested on. Its best epochs are linked into ``folder``, whose configuration gets its model.

    Args:
        folder: of the mutual training, finished.
        names: trained peers; each has a folder in it.
        criterion: (split, figure, min or max) of the training.

    Returns:
        the best peer's name.
    """
    summary = json.loads((folder / "train_summary.json").read_text(encoding="utf-8"))
    values = _best_values(folder / "history.csv", names, criterion)
    choose = max if criterion[2] == "max" else min
    best = choose(names, key=lambda name: values[name])
    ranked = read_nbest(folder / best)
    for old in folder.glob("*epoch.pth"):
        old.unlink()
    for epoch in {epoch for each in ranked["criteria"] for epoch in each["epochs"]}:
        _link(folder / best / f"{epoch}epoch.pth", folder / f"{epoch}epoch.pth")
    atomic_write_text(folder / "nbest.json", json.dumps(ranked, indent=1) + "\n")
    config, own = read_config(folder / "config.yaml"), read_config(folder / best / "config.yaml")
    config |= {option: own[option] for option in INFERENCE_KEYS if option in own}
    atomic_write_text(folder / "config.yaml", dump_config(config))
    about = {name: {**summary["peers"][name], "best_value": values[name]} for name in names}
    for name in names:
        finished = {n: value for n, value in summary.items() if n not in ("peers", "best_peer")}
        finished |= {"peer": name, **about[name]}
        atomic_write_text(folder / name / "train_summary.json", json.dumps(finished, indent=1) + "\n")
    # Last, for a summary that names the best peer says that all of this is there.
    summary["peers"] = {**summary["peers"], **about}
    summary |= {"best_peer": best, "parameters": about[best]["parameters"]}
    atomic_write_text(folder / "train_summary.json", json.dumps(summary, indent=1) + "\n")
    return best


def _best_values(path: Path, names: Sequence[str], criterion: tuple[str, str, str]) -> dict[str, float]:
    split, figure, mode = criterion
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    choose = max if mode == "max" else min
    best = {}
    for name in names:
        column = f"{split}_{figure}_{name}"
        values = [float(row[column]) for row in rows if row.get(column)]
        # An epoch without a number is nobody's best, and a peer of such alone is behind every other.
        numbers = [value for value in values if not math.isnan(value)]
        best[name] = choose(numbers) if numbers else (-math.inf if mode == "max" else math.inf)
    return best


def _link(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
