"""``results.json``: everything that a report says, as data. The other files are other views of it.

docs/results_json.md describes every field.
"""

import math
from collections.abc import Mapping, Sequence

from espnet_ext.report import statistics
from espnet_ext.report.collect import Collection, Experiment, Result, split_seed
from espnet_ext.report.statistics import Drawn, Wanted
from espnet_ext.report.tables import Table, draws_of, main_ways, merged, tables
from espnet_ext.score.bootstrap import MIN_GROUPS

SCHEMA = 1
_RATES = ("wer", "cer", "ter", "ser")


def build(
    found: Collection,
    wanted: Sequence[Wanted],
    made_by: dict,
    about: Mapping[str, str] | None = None,
    decoding: str | None = None,
    development: Sequence[str] | None = None,
) -> tuple[dict, list[Drawn]]:
    """Everything a report says.

    Args:
        found: what there is; what cannot be compared is added to its problems.
        wanted: pairs of systems to compare.
        made_by: command, host, versions and commit of this report.
        about: a line about each known system.
        decoding: the way of decoding to compare by; None: see `main_ways`.
        development: sets that something was chosen on; None: by their names.

    Returns:
        results.json, and for each set the table of all systems as they are compared.
    """
    made = tables(found)
    drawn = statistics.draw_all(made)
    systems = list(dict.fromkeys(each.system for each in found.experiments))
    pairs = [pair for pair in wanted if {pair.system, pair.control} <= set(systems)]
    ways = main_ways(made, decoding, [(pair.system, pair.control) for pair in pairs])
    main = [Drawn(each, *draws_of(each)) for each in merged(made, ways, found)]
    if decoding and made and decoding not in ways.values():
        there = ", ".join(sorted({each.decoding for each in made}))
        found.problems.append(f"nothing was decoded with {decoding}; there are: {there}")
    compared = statistics.comparisons(main, drawn, pairs, ways, found, development)
    done = {(each["system"], each["control"].split(" (")[0]) for each in compared}
    results = {
        "schema": SCHEMA,
        "made_by": made_by,
        "rates_are": "percent; differences are percentage points, the system minus its control",
        "decoding": ways,
        "sets": [_set(each.table, development) for each in main],
        "systems": [
            _system(name, found, about or {}) for name in [*systems, *sorted(set(ways) - set(systems))]
        ],
        "experiments": [_experiment(each) for each in found.experiments],
        "results": [_result(each) for each in _ordered(found.results)],
        "summaries": statistics.summaries(drawn.values(), ways),
        "comparisons": compared,
        "not_compared": _not_compared(wanted, systems, done, made, development),
        "stages": [each for each in found.stages if each.get("stage") != "report"],  # it is running now
        "problems": [*found.problems, *_alarms(found)],
    }
    return finite(results), main


def finite(value):
    """The same without numbers that JSON does not have: None for them.

    >>> finite({"z": [float("inf"), 1.0]})
    {'z': [None, 1.0]}
    """
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ordered(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda each: (each.dataset, each.decoding, each.experiment))


def _alarms(found: Collection) -> list[str]:
    """What trainings have complained about (`gan` of its critic)."""
    return [
        f"{each.name}: {message}"
        for each in found.experiments
        for message in (each.summary or {}).get("alarms") or []
    ]


def _set(table: Table, development: Sequence[str] | None) -> dict:
    return {
        "name": table.dataset,
        "development": statistics.is_development(table.dataset, development),
        "measure": table.measure,
        "normalisation": table.normalisation,
        "utterances": len(table.names),
        "units": int(table.units().sum()),
        "speakers": None if table.speakers is None else len(set(table.speakers)),
    }


def _system(name: str, found: Collection, about: Mapping[str, str]) -> dict:
    mine = [each for each in found.experiments if each.system == name]
    return {"name": name, "what": about.get(name), "experiments": [each.name for each in mine]}


def _experiment(each: Experiment) -> dict:
    summary, export = each.summary or {}, each.export or {}
    system, seed, peer = split_seed(each.name)
    return {
        "name": each.name,
        "system": system,
        "seed": summary.get("seed", int(seed) if seed else None),
        "peer": peer or None,
        "parameters": summary.get("parameters"),
        "averaged_epochs": export.get("epochs"),
        "averaged_by": export.get("criterion"),
        "epochs": summary.get("epochs"),
        "steps": summary.get("steps"),
        "labelled_batches": (summary.get("batches") or {}).get("labelled", summary.get("labelled_batches")),
        "unlabelled_batches": (summary.get("batches") or {}).get("unlabelled"),
        "training_seconds": summary.get("seconds"),
        "alarms": summary.get("alarms"),
    }


def _result(each: Result) -> dict:
    score, decode = each.score or {}, each.decode or {}
    system, seed, peer = split_seed(each.experiment)
    intervals = score.get("intervals") or {}
    return {
        "experiment": each.experiment,
        "system": system,
        "seed": seed or None,
        "peer": peer or None,
        "decoding": each.decoding,
        "set": each.dataset,
        "scored": each.score is not None,
        "outdated": each.outdated,
        **{name: score.get(name) for name in _RATES},
        "intervals": {name: intervals.get(name) for name in _RATES},
        "drawn": intervals.get("drawn"),
        "counted": score.get("counted", "word") if score else None,
        **{
            name: score.get(name)
            for name in ("words", "characters", "tokens", "sentences", "sentence_errors")
        },
        "normalisation": score.get("normalisation"),
        "notes": score.get("notes") or [],
        "rtf": decode.get("rtf"),
        "device": decode.get("device"),
        "threads": decode.get("threads"),
        "jobs": decode.get("jobs"),
        "decode_command": decode.get("command"),
        "score_command": score.get("command"),
        "commit": decode.get("commit"),
        "versions": decode.get("versions"),
        "host": decode.get("host"),
    }


def _not_compared(
    wanted: Sequence[Wanted],
    systems: list[str],
    done: set,
    made: list[Table],
    development: Sequence[str] | None,
) -> list[dict]:
    """Pairs whose system is here and which could not be compared, with the reason."""
    scored = {system for table in made for system in table.systems()}
    tests = [each for each in made if not statistics.is_development(each.dataset, development)]
    longest = max((len(each.names) for each in tests), default=0)
    rows = []
    for pair in wanted:
        if pair.system not in systems or (pair.system, pair.control) in done:
            continue
        missing = [name for name in (pair.system, pair.control) if name not in scored]
        if missing:
            reason = f"{' and '.join(missing)}: {'not scored' if missing[0] in systems else 'no experiment'}"
        elif longest < MIN_GROUPS:
            reason = f"no test set has {MIN_GROUPS} utterances, the largest has {longest}"
        else:
            reason = f"no seed, or no test set of {MIN_GROUPS} utterances, that both have"
        rows.append({"system": pair.system, "control": pair.control, "reason": reason})
    return rows
