"""What the tables show: each system's rate with its interval, and each pair's difference with a verdict.

All comparisons of a report are one family for Holm's correction: every pair on every set that nothing was
chosen on (development sets decide about epochs and decoding weights, so they get no verdict).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from espnet_ext.report.collect import Collection, Result
from espnet_ext.report.tables import Table, draws_of
from espnet_ext.score.alignment import align, operations
from espnet_ext.score.bootstrap import Draws, Estimate
from espnet_ext.score.compare import Comparison, compare, correct
from espnet_ext.score.mapsswe import Mapsswe, mapsswe
from espnet_ext.score.match import mismatches
from espnet_ext.score.utterances import units_of
from espnet_ext.score.verdict import caveats, verdict

#: Sets of these names are taken for development sets where nobody says which are.
DEVELOPMENT = re.compile(r"(dev|valid|cv|train)([_-].*)?\Z|.*[_-](dev|valid)\Z")


@dataclass(frozen=True)
class Wanted:
    """A pair to compare; ``matched`` is what its controls.yaml promises to be equal.

    ``decoding``: of the control, where that is what differs; empty: the same.
    """

    system: str
    control: str
    matched: tuple[str, ...] = ()
    decoding: str = ""


@dataclass(frozen=True)
class Drawn:
    """A table with its draws."""

    table: Table
    draws: Draws | None
    columns: dict[tuple[str, str], int]

    def of(self, system: str) -> dict[str, int]:
        """Column of each seed of a system."""
        return {seed: at for (name, seed), at in self.columns.items() if name == system}


def draw_all(made: Iterable[Table]) -> dict[tuple[str, str], Drawn]:
    """Draws of every table, by decoding and set."""
    return {(each.decoding, each.dataset): Drawn(each, *draws_of(each)) for each in made}


def summaries(drawn: Iterable[Drawn], ways: Mapping[str, str]) -> list[dict]:
    """Rate and interval of each system, all its seeds together, on each set; ``main`` are those compared."""
    rows = []
    for each in drawn:
        for system in each.table.systems():
            estimate = None if each.draws is None else each.draws.estimate(list(each.of(system).values()))
            about = {"system": system, "decoding": each.table.decoding, "set": each.table.dataset}
            about |= {"measure": each.table.measure, "seeds": each.table.seeds(system)}
            about["main"] = ways[system] == each.table.decoding
            found = _rounded(estimate, lowest=0.0) if estimate else _without_interval(each.table, system)
            rows.append(about | found | _drawn(each))
    return rows


def _without_interval(table: Table, system: str) -> dict:
    """A rate of too few utterances for any interval; no rate where nothing was said."""
    units = table.units().sum()
    rates = [100 * table.errors((system, seed)).sum() / units for seed in table.seeds(system) if units]
    return {"value": round(sum(rates) / len(rates), 4) if rates else None, "low": None, "high": None}


def _drawn(each: Drawn) -> dict:
    groups = each.draws and each.draws.groups
    return {"drawn": groups.kind if groups else None, "groups": groups.count if groups else 0}


def _rounded(estimate: Estimate | None, lowest: float | None = None) -> dict:
    if estimate is None:
        return {"value": None, "low": None, "high": None}
    low = estimate.low if lowest is None else max(lowest, estimate.low)
    return {"value": round(estimate.value, 4), "low": round(low, 4), "high": round(estimate.high, 4)}


def is_development(dataset: str, named: Sequence[str] | None) -> bool:
    """Whether something was chosen on a set; ``named`` are those that are known to be so.

    >>> [is_development(name, None) for name in ("dev", "valid_small", "test_clean", "org/dev", "devices")]
    [True, True, False, True, False]
    >>> is_development("dev", ["dt05"])
    False
    """
    if named is not None:
        return dataset in named
    return bool(DEVELOPMENT.match(dataset.rsplit("/", 1)[-1]))


def comparisons(
    main: Iterable[Drawn],
    drawn: dict[tuple[str, str], Drawn],
    wanted: Iterable[Wanted],
    ways: Mapping[str, str],
    found: Collection,
    development: Sequence[str] | None = None,
) -> list[dict]:
    """All comparisons that can be made, corrected together.

    Args:
        main: of the tables that hold every system as it is compared.
        drawn: of all tables, for controls that are about a way of decoding.
        wanted: pairs.
        ways: how each system is decoded in ``main``.
        found: the collection; the trainings' summaries say whether a pair was given the same.
        development: sets that something was chosen on.

    Returns:
        a mapping for each, as docs/results_json.md describes it.
    """
    made: list[tuple[Comparison, Wanted, list[dict]]] = []
    tables = [each for each in main if not is_development(each.table.dataset, development)]
    for pair in wanted:
        for each in tables:
            other = each
            if pair.decoding and pair.decoding != ways.get(pair.control):
                other = drawn.get((pair.decoding, each.table.dataset))
            one = _compare(each, other, pair)
            if one is not None:
                made.append(one)
    corrected = correct([each for each, _, _ in made])
    return [
        _row(each, pair, details, (ways[pair.system], pair.decoding or ways[pair.control]), found)
        for each, (_, pair, details) in zip(corrected, made, strict=True)
    ]


def _compare(each: Drawn, other: Drawn | None, pair: Wanted) -> tuple[Comparison, Wanted, list[dict]] | None:
    if (
        other is not None and other is not each
    ):  # a control that is about a way of decoding: both into one table
        mine, theirs = each.table, other.table
        keys = {key: models for key, models in mine.models.items() if key[0] == pair.system}
        control = {key: models for key, models in theirs.models.items() if key[0] == pair.control}
        if not keys or not control or (mine.names, mine.unit) != (theirs.names, theirs.unit):
            return None
        # Under a name of its own: the same experiment may be on both sides.
        renamed = {
            (f"{pair.control} ({theirs.decoding})", seed): models for (_, seed), models in control.items()
        }
        joined = replace(mine, models=keys | renamed)
        each, name = Drawn(joined, *draws_of(joined)), f"{pair.control} ({theirs.decoding})"
    else:
        name = pair.control
    system, control = each.of(pair.system), each.of(name)
    if each.draws is None or other is None or not set(system) & set(control):
        return None
    table = each.table
    found = compare(each.draws, system, control, (pair.system, name, table.dataset, table.measure))
    details = [
        {"seed": seed, **asdict(test)}
        for seed in found.seeds
        if (test := _matched_pairs(table.models[pair.system, seed], table.models[name, seed], table.unit))
    ]
    return found, pair, details


def _matched_pairs(one: Sequence[Result], other: Sequence[Result], unit: str) -> Mapsswe | None:
    """MAPSSWE of a seed; None where a side has several models, of which none is the one to test."""
    if len(one) != 1 or len(other) != 1:
        return None
    return mapsswe(*(operations_of(each[0], unit) for each in (one, other)))


def operations_of(result: Result, unit: str) -> list[str]:
    """Alignment of every utterance as a string of operations; kept, for every comparison asks for it."""
    if result.operations is None:
        sides = result.utterances.references, result.utterances.hypotheses
        split = ((units_of(ref, unit), units_of(hyp, unit)) for ref, hyp in zip(*sides, strict=True))
        result.operations = [operations(align(*pair)) for pair in split]
    return result.operations


def _row(
    found: Comparison, pair: Wanted, details: list[dict], ways: tuple[str, str], all_: Collection
) -> dict:
    sides = [
        [each.summary for each in all_.trainings(name) if each.seed in found.seeds]
        for name in (pair.system, pair.control)
    ]
    differing = mismatches(*sides, pair.matched) if pair.matched else []
    estimate = found.difference
    return {
        "system": pair.system,
        "control": pair.control,
        "set": found.dataset,
        "decoding": ways[0],
        "control_decoding": ways[1],
        "measure": found.measure,
        "seeds": list(found.seeds),
        "unpaired_seeds": list(found.unpaired),
        "rates": [round(rate, 4) for rate in found.rates],
        "difference": _rounded(estimate),
        "relative": None
        if found.relative(estimate.value) is None
        else round(found.relative(estimate.value), 2),
        "p": estimate.p,
        "corrected_p": found.corrected_p,
        "comparisons": found.comparisons,
        "shown": found.shown,
        "detectable": None if found.detectable is None else round(found.detectable, 4),
        "drawn": found.drawn,
        "groups": found.groups,
        "promised_equal": list(pair.matched),
        "not_matched": differing,
        "verdict": verdict(found),
        "caveats": [*_of_match(differing), *_of_ways(pair, ways), *caveats(found)],
        "mapsswe": [
            {**each, "mean": round(each["mean"], 4), "deviation": round(each["deviation"], 4)}
            for each in details
        ],
    }


def _of_ways(pair: Wanted, ways: tuple[str, str]) -> list[str]:
    if ways[0] == ways[1] or pair.decoding:
        return []
    return [f"decoded in different ways, {ways[0]} and {ways[1]}: the difference may come from that"]


def _of_match(differing: list[str]) -> list[str]:
    """Compute that does not match, in words."""
    real = [each for each in differing if not each.endswith("not recorded")]
    unknown = [each.removesuffix(": not recorded") for each in differing if each.endswith("not recorded")]
    notes = []
    if real:
        notes.append(f"NOT MATCHED: {'; '.join(real)}: the difference may come from that")
    if unknown:
        notes.append(f"not recorded, so nobody knows whether it matches: {', '.join(unknown)}")
    return notes
