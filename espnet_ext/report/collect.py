"""Gathering what the stages left: experiments, their results, and the commands that made them.

Nothing is trained, decoded or scored here. What a stage should have left and did not is None, and is called
missing in the report; a file that is there and cannot be used becomes a problem, which the report names while
it is built from the rest.
"""

import csv
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.score import utterances
from espnet_ext.score.utterances import Utterances

_SEED = re.compile(r"(.+)_seed(\d+)(?:/(peer\d+))?\Z")
_PEER = re.compile(r"(.+)/(peer\d+)\Z")


@dataclass
class Result:
    """One scored set.

    Attributes:
        experiment: name of the experiment's folder.
        decoding: tag of the decoding, ``decode_<tag>``.
        dataset: the set.
        score: contents of ``score/result.json``, None where the set was decoded and not scored.
        decode: contents of ``decode.json``, None where it is missing.
        outdated: the experiment's exported model is another one now than the one that was decoded with.
        utterances: texts and errors of every utterance, None where they are missing.
        operations: alignments, once somebody asked for them.
        data_dir: of the set that was decoded, for its audio.
    """

    experiment: str
    decoding: str
    dataset: str
    score: dict | None
    decode: dict | None
    outdated: bool = False
    utterances: Utterances | None = None
    operations: list[str] | None = None
    data_dir: Path | None = None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return "/".join(filter(None, (self.experiment, self.decoding, self.dataset)))


@dataclass(frozen=True)
class Experiment:
    """One training.

    Attributes:
        name: name of its folder.
        summary: contents of ``train_summary.json``; None where the training has not finished.
        export: contents of ``export/export.json``.
        history: rows of ``history.csv``, column by column; empty cells are left out of a row.
        calibration: contents of ``calibration/<set>.json`` by set.
    """

    name: str
    summary: dict | None = None
    export: dict | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    calibration: dict[str, dict] = field(default_factory=dict)

    @property
    def system(self) -> str:
        """What it is a training of: its name without the seed."""
        return split_seed(self.name)[0]

    @property
    def seed(self) -> str:
        """The seed in its name, empty where there is none."""
        return split_seed(self.name)[1]


@dataclass
class Collection:
    """All there is to report."""

    experiments: list[Experiment] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    stages: list[dict] = field(default_factory=list)  # the driver's records, in the order of the stages
    problems: list[str] = field(default_factory=list)  # what could not be used, in words

    def trainings(self, system: str) -> list[Experiment]:
        """The trainings of a system; the peers of a training are no trainings of their own."""
        return [each for each in self.experiments if split_seed(each.name)[::2] == (system, "")]

    def rename(self, old: str, new: str) -> None:
        """Call an experiment otherwise, its peers with it."""

        def renamed(name: str) -> str:
            return new + name[len(old) :] if name == old or name.startswith(f"{old}/") else name

        self.experiments = [replace(each, name=renamed(each.name)) for each in self.experiments]
        self.results = [replace(each, experiment=renamed(each.experiment)) for each in self.results]

    def add(self, other: "Collection") -> None:
        """Take in another collection."""
        self.experiments += other.experiments
        self.results += other.results
        self.stages += other.stages
        self.problems += other.problems


def split_seed(name: str) -> tuple[str, str, str]:
    """System, seed and peer of an experiment's name.

    >>> split_seed("gan_no_critic_seed2"), split_seed("asr_train_conformer")
    (('gan_no_critic', '2', ''), ('asr_train_conformer', '', ''))
    >>> split_seed("mutual_learning_seed1/peer2"), split_seed("mine/peer1")
    (('mutual_learning', '1', 'peer2'), ('mine', '', 'peer1'))
    """
    match = _SEED.match(name)
    if match:
        return match[1], match[2], match[3] or ""
    match = _PEER.match(name)
    return (match[1], "", match[2]) if match else (name, "", "")


def collect(expdir: Path) -> Collection:
    """Read an experiment directory.

    Raises:
        UserError: it does not exist, or holds no experiment.
    """
    if not expdir.is_dir():
        raise UserError(
            f"{expdir}: no such folder; experiments are made by stages 6 (pretrain) and 8 (finetune)"
        )
    folders = [each for each in sorted(expdir.iterdir()) if is_experiment(each)]
    if not folders:
        raise UserError(
            f"{expdir}: no experiment in it (a folder with config.yaml or decode_*); run stages 6 to 11"
        )
    found = Collection()
    for folder in folders:
        found.add(collect_experiment(folder))
    for path in sorted((expdir / ".stages").glob("*.json")):
        record = _json(path, found.problems)
        if record is not None:
            found.stages.append(record)
    return found


def is_experiment(folder: Path) -> bool:
    """Whether a folder is one of this project's experiments (not of `.old` or of temporary ones)."""
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    trained = (folder / "config.yaml").exists() or (folder / "train_summary.json").exists()
    return trained or any(folder.glob("decode_*"))


def collect_experiment(folder: Path) -> Collection:
    """Read one experiment of this project; each of its peers is an experiment beside it."""
    found = _collect_one(folder, folder.name)
    for peer in sorted(folder.glob("peer[0-9]*")):
        if is_experiment(peer) or (peer / "export").is_dir():
            found.add(_collect_one(peer, f"{folder.name}/{peer.name}"))
    return found


def _collect_one(folder: Path, name: str) -> Collection:
    problems: list[str] = []
    experiment = Experiment(
        name,
        _json(folder / "train_summary.json", problems),
        _json(folder / "export" / "export.json", problems),
        read_history(folder / "history.csv", problems),
        {
            path.stem: each
            for path in sorted((folder / "calibration").glob("*.json"))
            if (each := _json(path, problems))
        },
    )
    return Collection([experiment], _results(folder, name, problems), [], problems)


def _results(folder: Path, name: str, problems: list[str]) -> list[Result]:
    found = []
    model = folder / "export" / "model.pth"
    digest = hashlib.sha256(model.read_bytes()).hexdigest() if model.exists() else None
    for path in sorted(folder.glob("decode_*/*")):
        if not path.is_dir():
            continue
        score, decode = _json(path / "score" / "result.json", problems), _json(path / "decode.json", problems)
        if score is None and decode is None:
            if not (path / "score" / "result.json").exists():
                problems.append(f"{path}: the decoding has not finished (no decode.json); run stage 10 again")
            continue
        texts = path / "score" / utterances.NAME
        each = None
        if score is None:
            problems.append(f"{path}: decoded and not scored; run stage 11 (score)")
        else:
            try:
                each = utterances.read(texts)
            except UserError as error:
                problems.append(
                    f"{error}" if texts.exists() else f"{texts}: missing; run stage 11 (score) again"
                )
        outdated = None not in (digest, decode) and decode.get("model_sha256") != digest
        tag = path.parent.name.removeprefix("decode_")
        data_dir = _dumped(folder, decode["data_dir"]) if decode and "data_dir" in decode else None
        found.append(Result(name, tag, path.name, score, decode, outdated, each, data_dir=data_dir))
    return found


def _dumped(folder: Path, data_dir: str) -> Path:
    """The decoded set: its path begins at the recipe, which is one of the folders above the experiment."""
    places = [above / data_dir for above in folder.resolve().parents]
    return next((place for place in places if place.is_dir()), places[0])


def _json(path: Path, problems: list[str]) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # ESPnet's `score` is a file beside its `text`
        return None
    except ValueError as error:
        problems.append(f"{path}: not JSON ({error}); run the stage that writes it again")
        return None
    if not isinstance(found, dict):
        problems.append(f"{path}: expected a mapping; run the stage that writes it again")
        return None
    return found


def read_history(path: Path, problems: list[str]) -> list[dict[str, float]]:
    """Rows of a training's ``history.csv`` up to the first that is damaged; none where there is no file."""
    if not path.exists():
        return []
    rows = []
    with open(path, encoding="utf-8", newline="", errors="replace") as handle:
        for number, row in enumerate(csv.DictReader(handle), 2):
            try:
                rows.append({name: float(value) for name, value in row.items() if value})
            except (TypeError, ValueError):
                problems.append(f"{path}:{number}: expected a number in every column, found {row}")
                break
    return rows
