"""RESULTS.md: every experiment on every set, and what is needed to get the same numbers again."""

from collections.abc import Iterator

from espnet_ext.report.table import MISSING, duration, escape, table

#: Stands behind a figure that belongs to an older model than the one that is exported now.
OUTDATED = "(!)"


def render(results: dict, curves: str | None) -> str:
    """The whole report.

    Args:
        results: results.json (:func:`espnet_ext.report.build.build`).
        curves: file name of the picture of learning curves, None if there is none.
    """
    parts = ["# Results", *_rates(results), *_verdicts(results), *_problems(results), *_details(results)]
    parts += [*_experiments(results), *_curves(curves), *_commands(results), *_versions(results)]
    return "\n\n".join(parts) + "\n"


def _rates(results: dict) -> Iterator[str]:
    summaries = results["summaries"]
    if not summaries:
        if any(each["scored"] for each in results["results"]):
            yield "Nothing can be put side by side: see what is missing."
        else:
            yield "No set has been scored yet: run stages 10 (decode) and 11 (score)."
        return
    sets = sorted({each["set"] for each in summaries})
    by_place = {(each["system"], each["decoding"], each["set"]): each for each in summaries}
    old = {(each["system"], each["decoding"], each["set"]) for each in results["results"] if each["outdated"]}
    rows = []
    for decoding, system in sorted({(each["decoding"], each["system"]) for each in summaries}):
        cells, seeds = [], 0
        for name in sets:
            place = (system, decoding, name)
            each = by_place.get(place)
            seeds = max(seeds, len(each["seeds"]) if each else 0)
            cells.append(each and _with_interval(each) + (f" {OUTDATED}" if place in old else ""))
        rows.append([system, decoding, seeds, *cells])
    measures = sorted({each["measure"] for each in summaries})
    yield (
        f"{' or '.join(_NAMES[each] for each in measures)} in percent with 95 % intervals, means over seeds. "
        f"{_ways(results)}"
    )
    yield table(["system", "decoding", "seeds", *sets], rows, 2)
    yield from _interval_notes(summaries)
    if old:
        yield f"{OUTDATED} decoded with another model than the one exported now: run stages 10 to 12 again."


def _ways(results: dict) -> str:
    ways: dict[str, list[str]] = {}
    for system, way in results["decoding"].items():
        ways.setdefault(way, []).append(system)
    if len(ways) == 1:
        return f"Systems are compared by `{next(iter(ways)) or 'their only decoding'}`."
    each = (f"`{way}` ({', '.join(map(escape, names))})" for way, names in ways.items())
    return f"Systems are compared by {', '.join(each)}."


_NAMES = {"wer": "Word error rates", "cer": "Character error rates"}


def _with_interval(each: dict) -> str:
    if each["value"] is None:
        return "undefined"
    interval = "" if each["low"] is None else f" [{each['low']:.2f}, {each['high']:.2f}]"
    return f"{each['value']:.2f}{interval}"


def _interval_notes(summaries: list[dict]) -> Iterator[str]:
    drawn = {each["set"]: each for each in summaries if each["drawn"]}
    of_speakers = [
        f"{name} ({each['groups']})" for name, each in drawn.items() if each["drawn"] == "speakers"
    ]
    others = [name for name, each in drawn.items() if each["drawn"] == "utterances"]
    notes = []
    if of_speakers:
        notes.append(f"over speakers: {', '.join(sorted(of_speakers))}")
    if others:
        notes.append(
            f"over single utterances, since under 10 speakers are known: {', '.join(sorted(others))}; "
            "nothing is said about other speakers there"
        )
    if notes:
        yield f"Intervals are drawn {'; '.join(notes)}; and over seeds where there are several."


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _verdicts(results: dict) -> Iterator[str]:
    if not results["comparisons"] and not results["not_compared"]:
        return
    yield "## Verdicts"
    if results["comparisons"]:
        yield (
            "Each system against its control, on sets that nothing was chosen on; paired bootstrap, "
            "corrected for all comparisons of this report (Holm)."
        )
    for each in results["comparisons"]:
        rates = " against ".join(f"{rate:.2f}" for rate in each["rates"])
        seeds = f", seeds {', '.join(each['seeds'])}" if all(each["seeds"]) else ""
        lines = [
            f"**{escape(each['system'])}** against **{escape(each['control'])}** on {escape(each['set'])} "
            f"({each['measure'].upper()} {rates} %{seeds}): {escape(each['verdict'])}."
        ]
        lines += [f"- {escape(note)}" for note in each["caveats"]]
        if each["mapsswe"]:
            tests = (
                f"{('seed ' + t['seed'] + ' ') if t['seed'] else ''}z = {t['z']:.2f}, p = {t['p']:.3g}"
                for t in each["mapsswe"]
            )
            lines.append(f"- matched pairs (MAPSSWE), blind to training: {'; '.join(tests)}")
        yield "\n".join(lines)
    if results["not_compared"]:
        yield "\n".join(
            escape(f"- not compared: {each['system']} with {each['control']} ({each['reason']})")
            for each in results["not_compared"]
        )


def _problems(results: dict) -> Iterator[str]:
    if results["problems"]:
        yield "## What is missing, or gave an alarm"
        yield "\n".join(f"- {escape(problem)}" for problem in results["problems"])


def _details(results: dict) -> Iterator[str]:
    yield "## Details"
    yield (
        "WER, CER and SER (sentences with an error) in percent; S, D, I: substituted, deleted, inserted "
        "words (characters where the language has no spaces); RTF: seconds of decoding per second of audio."
    )
    head = "experiment decoding set WER CER SER S D I units sentences RTF device".split()
    yield table(head, [_detail_row(each) for each in results["results"]], 3)
    notes = sorted({each["normalisation"] for each in results["results"] if each["scored"]})
    yield f"Normalisation before scoring: {'; '.join(notes) or MISSING}."
    for each in results["results"]:
        if each["notes"]:
            place = "/".join(filter(None, (each["experiment"], each["decoding"], each["set"])))
            yield f"{escape(place)}: {'; '.join(map(escape, each['notes']))}."


def _detail_row(each: dict) -> list:
    place = [each["experiment"], each["decoding"], each["set"]]
    speed = [None if each["rtf"] is None else f"{each['rtf']:.4f}", _device(each)]
    if not each["scored"]:
        return [*place, *[None] * 8, *speed]
    counts = each["characters" if each["counted"] == "char" else "words"]
    kinds = [counts[name] for name in ("substitutions", "deletions", "insertions", "reference")]
    rates = ["" if name == "wer" and each["counted"] == "char" else _percent(each[name]) for name in _SHOWN]
    return [*place, *rates, *kinds, each["sentences"], *speed]


_SHOWN = ("wer", "cer", "ser")


def _device(each: dict) -> str | None:
    if not each["device"]:
        return None
    threads, jobs = each["threads"] or 1, each["jobs"] or 1
    text = each["device"]
    if text == "cpu":
        text += f", {threads} thread{'s' * (threads > 1)}"
    return text + (f", {jobs} jobs" if jobs > 1 else "")


def _experiments(results: dict) -> Iterator[str]:
    yield "## Experiments"
    head = "experiment,averaged epochs,seed,parameters,epochs,steps,labelled batches,training".split(",")
    yield table(head, [_experiment_row(each) for each in results["experiments"]], 2)


def _experiment_row(each: dict) -> list:
    epochs, parameters = each["averaged_epochs"], each["parameters"]
    return [
        each["name"],
        None if epochs is None else ", ".join(map(str, epochs)),
        each["seed"],
        None if parameters is None else f"{parameters:,}",
        each["epochs"],
        each["steps"],
        each["labelled_batches"],
        duration(each["training_seconds"]),
    ]


def _curves(curves: str | None) -> Iterator[str]:
    yield "## Learning curves"
    yield f"![validation curves]({curves})" if curves else f"{MISSING}: no experiment has a history.csv."


def _commands(results: dict) -> Iterator[str]:
    yield "## Commands"
    yield from _stage_commands(results["stages"])
    for title, name in (("Decoding:", "decode_command"), ("Scoring:", "score_command")):
        commands = sorted({each[name] for each in results["results"] if each[name]})
        if commands:
            yield title
            yield _code(commands)
    yield "This report:"
    yield _code([results["made_by"]["command"]])


def _stage_commands(stages: list[dict]) -> Iterator[str]:
    """Each command once, with the stages that it ran."""
    if not stages:
        yield f"Stages: {MISSING}; they were not run by the driver, which records them in `.stages`."
    by_command: dict[str, list[dict]] = {}
    for record in stages:
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


def _versions(results: dict) -> Iterator[str]:
    """Versions of what decoded: one column where all results agree, else one a group of results."""
    yield "## Versions"
    groups: dict[tuple, list[str]] = {}
    for each in results["results"]:
        if each["versions"]:
            place = f"{each['experiment']}/{each['decoding']}/{each['set']}"
            groups.setdefault(tuple(_software(each).items()), []).append(place)
    heads = (
        ["decoding"] if len(groups) == 1 else [f"decoding {number}" for number in range(1, len(groups) + 1)]
    )
    software = [_software(results["made_by"]), *(dict(each) for each in groups)]
    names = list(dict.fromkeys(name for each in software for name in each))
    head = ["", "this report", *heads]
    yield table(head, [[name, *(each.get(name) for each in software)] for name in names], len(head))
    if len(groups) > 1:
        yield "\n".join(f"- {head}: {', '.join(p)}" for head, p in zip(heads, groups.values(), strict=True))


def _software(provenance: dict) -> dict[str, str | None]:
    return {**provenance["versions"], "espnet_ext commit": provenance["commit"]}
