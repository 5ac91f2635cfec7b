"""RESULTS.md: every experiment on every set, and what is needed to get the same numbers again."""

from collections.abc import Iterator

from espnet_ext.report.collect import Collection, Experiment, Result
from espnet_ext.report.table import MISSING, duration, escape, table

#: Stands behind a figure that belongs to an older model than the one that is exported now.
OUTDATED = "(!)"


def render(found: Collection, provenance: dict, curves: str | None) -> str:
    """The whole report.

    Args:
        found: what there is.
        provenance: of the report itself (:func:`espnet_ext.recipe.provenance.provenance`).
        curves: file name of the picture of learning curves, None if there is none.
    """
    parts = ["# Results", *_rates(found), *_problems(found), *_details(found), *_experiments(found)]
    parts += _curves(curves)
    parts += [*_commands(found), *_versions(found, provenance)]
    return "\n\n".join(parts) + "\n"


def _rates(found: Collection) -> Iterator[str]:
    scored = [result for result in found.results if result.score]
    if not scored:
        yield "No set has been scored yet: run stages 10 (decode) and 11 (score)."
        return
    sets = sorted({result.dataset for result in scored})
    by_place = {(each.experiment, each.decoding, each.dataset): each for each in scored}
    rows = [
        [experiment, decoding, *(_wer(by_place.get((experiment, decoding, each))) for each in sets)]
        for decoding, experiment in sorted({(each.decoding, each.experiment) for each in scored})
    ]
    yield "Word error rates in percent. `joint` combines CTC and attention; look there first."
    yield table(["experiment", "decoding", *sets], rows, 2)
    if any(result.outdated for result in scored):
        yield f"{OUTDATED} decoded with another model than the one exported now: run stages 10 to 12 again."


def _problems(found: Collection) -> Iterator[str]:
    if found.problems:
        yield "## What is missing"
        yield "\n".join(f"- {escape(problem)}" for problem in found.problems)


def _wer(result: Result | None) -> str | None:
    if result is None:
        return None
    return _percent(result.score["wer"]) + (f" {OUTDATED}" if result.outdated else "")


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _details(found: Collection) -> Iterator[str]:
    yield "## Details"
    yield (
        "WER, CER and SER (sentences with an error) in percent; S, D, I: substituted, deleted, inserted "
        "words; RTF: seconds of decoding per second of audio."
    )
    head = "experiment decoding set WER CER SER S D I words sentences RTF device".split()
    ordered = sorted(found.results, key=lambda each: (each.dataset, each.decoding, each.experiment))
    yield table(head, [_detail_row(result) for result in ordered], 3)
    notes = sorted({result.score["normalisation"] for result in found.results if result.score})
    yield f"Normalisation before scoring: {'; '.join(notes) or MISSING}."


def _detail_row(result: Result) -> list:
    place = [result.experiment, result.decoding, result.dataset]
    decode = result.decode or {}
    rtf = [None if "rtf" not in decode else f"{decode['rtf']:.4f}", _device(decode)]
    score = result.score
    if score is None:
        return [*place, *[None] * 8, *rtf]
    words = score["words"]
    counts = [words[name] for name in ("substitutions", "deletions", "insertions", "reference")]
    return [
        *place,
        *(_percent(score[rate]) for rate in ("wer", "cer", "ser")),
        *counts,
        score["sentences"],
        *rtf,
    ]


def _device(decode: dict) -> str | None:
    if "device" not in decode:
        return None
    device = decode["device"]
    threads = f", {decode['threads']} thread{'s' * (decode['threads'] > 1)}" if device == "cpu" else ""
    return device + threads + (f", {decode['jobs']} jobs" if decode["jobs"] > 1 else "")


def _experiments(found: Collection) -> Iterator[str]:
    yield "## Experiments"
    head = [
        "experiment",
        "averaged epochs",
        "seed",
        "parameters",
        "epochs",
        "steps",
        "labelled batches",
        "training",
    ]
    yield table(head, [_experiment_row(each) for each in found.experiments], 2)


def _experiment_row(experiment: Experiment) -> list:
    summary = experiment.summary or {}
    epochs = (experiment.export or {}).get("epochs")
    parameters = summary.get("parameters")
    return [
        experiment.name,
        None if epochs is None else ", ".join(map(str, epochs)),
        summary.get("seed"),
        None if parameters is None else f"{parameters:,}",
        summary.get("epochs"),
        summary.get("steps"),
        summary.get("labelled_batches"),
        duration(summary.get("seconds")),
    ]


def _curves(curves: str | None) -> Iterator[str]:
    yield "## Learning curves"
    yield f"![validation curves]({curves})" if curves else f"{MISSING}: no experiment has a history.csv."


def _commands(found: Collection) -> Iterator[str]:
    yield "## Commands"
    yield from _stage_commands(found.stages)
    decoded = [result for result in found.results if result.decode]
    if decoded:
        yield "Decoding:"
        yield _code(sorted({result.decode["command"] for result in decoded}))


def _stage_commands(stages: list[dict]) -> Iterator[str]:
    """Each command once, with the stages that it ran."""
    if not stages:
        yield f"Stages: {MISSING}; they were not run by the driver, which records them in `.stages`."
    by_command: dict[str, list[dict]] = {}
    for record in stages:
        if record["stage"] == "report":  # it is running now, whatever it will say later
            continue
        by_command.setdefault(record["command"], []).append(record)
    for command, records in by_command.items():
        ran = [
            f"{record['number']} {record['stage']}"
            + (f" [{record['scope']}]" if record["scope"] != "recipe" else "")
            + ("" if record["state"] == "done" else f" ({record['state']})")
            for record in records
        ]
        yield f"Stages {', '.join(ran)}:"
        yield _code([command])


def _code(lines: list[str]) -> str:
    return "\n".join(["```sh", *lines, "```"])


def _versions(found: Collection, report: dict) -> Iterator[str]:
    """Versions of what decoded: one column where all results agree, else one a group of results."""
    yield "## Versions"
    groups: dict[tuple, list[str]] = {}
    for result in found.results:
        if result.decode:
            place = f"{result.experiment}/{result.decoding}/{result.dataset}"
            groups.setdefault(tuple(_software(result.decode).items()), []).append(place)
    heads = (
        ["decoding"] if len(groups) == 1 else [f"decoding {number}" for number in range(1, len(groups) + 1)]
    )
    software = [_software(report), *(dict(each) for each in groups)]
    names = list(dict.fromkeys(name for each in software for name in each))
    head = ["", "this report", *heads]
    yield table(head, [[name, *(each.get(name) for each in software)] for name in names], len(head))
    if len(groups) > 1:
        yield "\n".join(f"- {head}: {', '.join(p)}" for head, p in zip(heads, groups.values(), strict=True))


def _software(provenance: dict) -> dict[str, str | None]:
    return {**provenance["versions"], "espnet_ext commit": provenance["commit"]}
