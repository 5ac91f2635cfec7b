"""Which epochs an export averages, and whether one that is there is still that of its training."""

import hashlib
import json
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.train.nbest import read_nbest

#: In `export.json`: hash of the summary that the training left.
TRAINING = "train_summary_sha256"


def ranking(exp_dir: Path, criterion: str | None = None) -> dict:
    """Epochs of a finished training, best first: ``{criterion: ..., epochs: [...]}``.

    Args:
        exp_dir: the training.
        criterion: by what, as `valid_acc`: one of the training's `best_model_criterion`; None is its first.

    Raises:
        UserError: the training is not finished, or has no such criterion.
    """
    if not (exp_dir / "train_summary.json").exists():
        raise UserError(
            f"{exp_dir}: the training has not finished; run its stage again, it goes on where it was"
        )
    found = read_nbest(exp_dir)
    if criterion is None:
        return found
    by_name = {"_".join(each["criterion"][:2]): each for each in found.get("criteria", [found])}
    if criterion not in by_name:
        raise UserError(f"--criterion {criterion}: {exp_dir / 'nbest.json'} has {', '.join(sorted(by_name))}")
    return by_name[criterion]


def facts(exp_dir: Path, nbest: int, criterion: str | None = None) -> dict:
    """What `export.json` says of the training: averaged epochs, by which criterion, and of which run."""
    ranked = ranking(exp_dir, criterion)
    summary = (exp_dir / "train_summary.json").read_bytes()
    return {
        "epochs": sorted(ranked["epochs"][:nbest]),
        "criterion": ranked["criterion"],
        TRAINING: hashlib.sha256(summary).hexdigest(),
    }


def is_current(exp_dir: Path, out_dir: Path, nbest: int, criterion: str | None = None) -> bool:
    """Whether ``out_dir`` holds the export of this training, of the same epochs."""
    try:
        about = json.loads((out_dir / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = facts(exp_dir, nbest, criterion)
    return isinstance(about, dict) and {name: about.get(name) for name in wanted} == wanted
