"""Gathering what the stages left: experiments, their results, and the commands that made them.

Nothing is computed here. What a stage should have left and did not is None, and is called missing in the
report.
"""

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from espnet_ext.errors import UserError


@dataclass(frozen=True)
class Result:
    """One scored set.

    Attributes:
        experiment: name of the experiment's folder.
        decoding: tag of the decoding, ``decode_<tag>``.
        dataset: the set.
        score: contents of ``score/result.json``, None where the set was decoded and not scored.
        decode: contents of ``decode.json``, None where it is missing.
        outdated: the experiment's exported model is another one now than the one that was decoded with.
    """

    experiment: str
    decoding: str
    dataset: str
    score: dict | None
    decode: dict | None
    outdated: bool


@dataclass(frozen=True)
class Experiment:
    """One training.

    Attributes:
        name: name of its folder.
        summary: contents of ``train_summary.json``; None where the training has not finished.
        export: contents of ``export/export.json``.
        history: rows of ``history.csv``, column by column; empty cells are left out of a row.
    """

    name: str
    summary: dict | None
    export: dict | None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Collection:
    """All there is to report."""

    experiments: list[Experiment]
    results: list[Result]
    stages: list[dict]  # the driver's records, in the order of the stages


def collect(expdir: Path) -> Collection:
    """Read an experiment directory.

    Raises:
        UserError: it does not exist, holds no experiment, or a file in it is damaged.
    """
    if not expdir.is_dir():
        raise UserError(
            f"{expdir}: no such folder; experiments are made by stages 6 (pretrain) and 8 (finetune)"
        )
    folders = [each for each in sorted(expdir.iterdir()) if _is_experiment(each)]
    if not folders:
        raise UserError(
            f"{expdir}: no experiment in it (a folder with config.yaml or decode_*); run stages 6 to 11"
        )
    return Collection(
        experiments=[_experiment(folder) for folder in folders],
        results=[result for folder in folders for result in _results(folder)],
        stages=[_json(path) for path in sorted((expdir / ".stages").glob("*.json"))],
    )


def _is_experiment(folder: Path) -> bool:
    trained = (folder / "config.yaml").exists() or (folder / "train_summary.json").exists()
    return folder.is_dir() and (trained or any(folder.glob("decode_*")))


def _experiment(folder: Path) -> Experiment:
    return Experiment(
        folder.name,
        _json(folder / "train_summary.json"),
        _json(folder / "export" / "export.json"),
        _history(folder / "history.csv"),
    )


def _results(folder: Path) -> list[Result]:
    found = []
    model = folder / "export" / "model.pth"
    digest = hashlib.sha256(model.read_bytes()).hexdigest() if model.exists() else None
    for path in sorted(folder.glob("decode_*/*")):
        score, decode = _json(path / "score" / "result.json"), _json(path / "decode.json")
        if score is None and decode is None:
            continue
        outdated = None not in (digest, decode) and decode["model_sha256"] != digest
        found.append(
            Result(folder.name, path.parent.name.removeprefix("decode_"), path.name, score, decode, outdated)
        )
    return found


def _json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run the stage that writes it again") from None


def _history(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    rows = []
    with open(path, encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), 2):
            try:
                rows.append({name: float(value) for name, value in row.items() if value})
            except (TypeError, ValueError):
                raise UserError(f"{path}:{number}: expected a number in every column, found {row}") from None
    return rows
