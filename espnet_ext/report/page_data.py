"""What the page shows beside results.json: curves, confusions, and the texts of every utterance."""

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from espnet_ext.report.audio import Player
from espnet_ext.report.collect import Collection, Experiment, Result
from espnet_ext.report.statistics import Drawn, is_development, operations_of
from espnet_ext.score.utterances import units_of

_PANELS = Path(__file__).with_name("curves.yaml")
_TIMES = ("epoch", "step", "seconds")
#: Confusions of a model that are shown, utterances of a comparison whose audio is embedded first.
_CONFUSIONS, _HEARD = 15, 8
#: Characters of texts that a page holds; what is beyond is left out and said to be so.
_MOST_TEXT = 12_000_000


def page_data(results: dict, found: Collection, drawn: Iterable[Drawn], player: Player) -> dict:
    """Everything under ``page`` of the page's data."""
    tables = [each.table for each in drawn]
    # What was chosen on is less interesting than what was not.
    tables.sort(key=lambda each: (is_development(each.dataset, _development(results)), each.dataset))
    models = [(table, each) for table in tables for group in table.models.values() for each in group]
    texts, notes = _texts(tables, player, results)
    return {
        "curves": _curves(found.experiments),
        "calibration": _calibration(found.experiments),
        "errors": [_errors(each, table.unit, results) for table, each in models],
        "texts": texts,
        "start": _start(results, tables),
        "audio": player.embedded,
        "notes": [*notes, *player.notes],
    }


def _development(results: dict) -> list[str]:
    return [each["name"] for each in results["sets"] if each["development"]]


def _curves(experiments: list[Experiment]) -> list[dict]:
    """Panels of starting models and of what was trained on from them: their losses have other scales."""
    starts = [each for each in experiments if each.name.startswith("pretrain")]
    others = [each for each in experiments if each not in starts]
    groups = yaml.safe_load(_PANELS.read_text(encoding="utf-8"))
    taken: set[str] = set()
    beginning = _group({**groups[0], "title": "Starting models"}, starts, set())
    made = [beginning, *(_group(group, others, taken) for group in groups)]
    return [each for each in made if each["panels"]]


def _group(group: dict, experiments: list[Experiment], taken: set[str]) -> dict:
    panels = []
    for panel in group["panels"]:
        series = [
            line
            for each in experiments
            for column in _columns(each, panel["columns"], taken)
            if (line := _line(each, column))
        ]
        taken |= {line["column"] for line in series}
        if series:
            panels.append({"title": panel["title"], "note": panel.get("note"), "series": series})
    return {"title": group["title"], "what": group.get("what"), "panels": panels}


def _columns(experiment: Experiment, patterns: list[str], taken: set[str]) -> list[str]:
    names = dict.fromkeys(name for row in experiment.history for name in row if name not in _TIMES)
    plain = {name: name.removeprefix("train_").removeprefix("valid_") for name in names if name not in taken}
    return [name for name, short in plain.items() if any(fnmatchcase(short, each) for each in patterns)]


def _line(experiment: Experiment, column: str) -> dict | None:
    points = [
        [row.get("step", row.get("epoch", at)), float(f"{row[column]:.5g}")]
        for at, row in enumerate(experiment.history, 1)
        if column in row and abs(row[column]) < float("inf")
    ]
    about = {"experiment": experiment.name, "system": experiment.system, "column": column}
    return about | {"second": column.startswith("train_"), "points": points} if points else None


def _calibration(experiments: list[Experiment]) -> list[dict]:
    return [
        {"experiment": each.name, "set": name}
        | {key: values.get(key) for key in ("ece", "max_posterior", "accuracy")}
        for each in experiments
        for name, values in each.calibration.items()
    ]


def _errors(result: Result, unit: str, results: dict) -> dict:
    pairs: Counter = Counter()
    texts = result.utterances
    rows = zip(texts.references, texts.hypotheses, operations_of(result, unit), strict=True)
    for reference, hypothesis, path in rows:
        if path.count("C") == len(path):
            continue
        refs, hyps = iter(units_of(reference, unit)), iter(units_of(hypothesis, unit))
        for kind in path:
            pair = (None if kind == "I" else next(refs), None if kind == "D" else next(hyps))
            if kind != "C":
                pairs[pair] += 1
    ordered = sorted(pairs.items(), key=lambda each: (-each[1], each[0][0] or "", each[0][1] or ""))
    return {
        "experiment": result.experiment,
        "set": result.dataset,
        "development": result.dataset in _development(results),
        "unit": "words" if unit == "word" else "characters",
        "confusions": [[ref, hyp, times] for (ref, hyp), times in ordered[:_CONFUSIONS]],
        "lengths": result.score.get("lengths") or [],
        "speakers": result.score.get("speakers"),
    }


def _texts(tables: list, player: Player, results: dict) -> tuple[list[dict], list[str]]:
    found, notes, room = [], [], _MOST_TEXT
    for table in tables:
        models: dict[str, list] = {}
        for each in (each for group in table.models.values() for each in group):
            hypotheses = each.utterances.hypotheses
            size = sum(map(len, hypotheses))
            if room < size:
                notes.append(f"{each.place}: its texts are not on this page, which would be too large")
                continue
            room -= size
            paths = operations_of(each, table.unit)
            models[each.experiment] = [
                0 if path.count("C") == len(path) else [hyp, path]
                for hyp, path in zip(hypotheses, paths, strict=True)
            ]
        if models:
            each = next(iter(table.models.values()))[0]
            urls = player.urls(each.data_dir, table.names, _worth_hearing(table, results))
            about = {
                "set": table.dataset,
                "unit": table.unit,
                "names": table.names,
                "speakers": table.speakers,
            }
            found.append(about | {"references": table.references, "models": models, "audio": urls})
    return found, notes


def _worth_hearing(table, results: dict) -> list[int]:
    """Utterances on which compared systems differ most, then those with most errors."""
    ranked: dict[int, None] = {}
    for pair in results["comparisons"]:
        sides = [
            [key for key in table.models if key[0] == pair[side].split(" (")[0]]
            for side in ("system", "control")
        ]
        if pair["set"] == table.dataset and all(sides):
            apart = abs(table.errors(sides[0][0]) - table.errors(sides[1][0]))
            ranked |= dict.fromkeys(int(at) for at in (-apart).argsort(kind="stable")[:_HEARD])
    worst = table.errors(next(iter(table.models)))
    return list(ranked | dict.fromkeys(int(at) for at in (-worst).argsort(kind="stable")[:_HEARD]))


def _start(results: dict, tables: list) -> dict | None:
    """The two models to begin with: those of the comparison with the largest difference."""
    pairs = [each for each in results["comparisons"] if "(" not in each["control"]]
    if pairs:
        best = max(pairs, key=lambda each: abs(each["difference"]["value"]))
        for table in tables:
            names = [
                models[0].experiment
                for side in ("system", "control")
                for key, models in table.models.items()
                if key == (best[side], best["seeds"][0])
            ]
            if table.dataset == best["set"] and len(names) == 2:
                return {"set": best["set"], "one": names[0], "two": names[1]}
    return None
