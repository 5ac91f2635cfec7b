"""Results put beside each other: for a set and a way of decoding, the errors of every system and seed.

A seed of mutual learning has several models, its peers; its errors are the mean over them, and the best of
them is a system of its own beside it. Only results over the same sentences, normalised alike, share a table:
the others are named as problems.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from espnet_ext.report.collect import Collection, Result, split_seed
from espnet_ext.score.bootstrap import Draws, Groups, draw


@dataclass
class Table:
    """All systems on one set, decoded in one way.

    Attributes:
        decoding, dataset: which.
        unit: what is counted, ``word`` or ``char``.
        normalisation: its name.
        names, references, speakers: of the utterances, in the order of all columns.
        models: results of each (system, seed); several where a seed has several models.
    """

    decoding: str
    dataset: str
    unit: str
    normalisation: str
    names: list[str]
    references: list[str]
    speakers: list[str] | None
    models: dict[tuple[str, str], list[Result]] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """The rate that is compared."""
        return "wer" if self.unit == "word" else "cer"

    def systems(self) -> list[str]:
        """Names of the systems."""
        return list(dict.fromkeys(system for system, _ in self.models))

    def seeds(self, system: str) -> list[str]:
        """Seeds of a system."""
        return [seed for name, seed in self.models if name == system]

    def errors(self, key: tuple[str, str]) -> np.ndarray:
        """(N,) errors of each utterance, mean over the models of a seed."""
        each = [result.utterances.counts(self.unit)[:, 1:].sum(1) for result in self.models[key]]
        return np.mean(each, axis=0)

    def units(self) -> np.ndarray:
        """(N,) words (or characters) of the references."""
        result = next(iter(self.models.values()))[0]
        return result.utterances.counts(self.unit)[:, 0]


def tables(found: Collection) -> list[Table]:
    """A table for each set and way of decoding; what does not fit in becomes a problem of the collection."""
    made: dict[tuple[str, str], Table] = {}
    results = sorted(
        found.results, key=lambda each: (split_seed(each.experiment), each.decoding, each.dataset)
    )
    for each in results:
        if each.score is None or each.utterances is None:
            continue
        place = each.decoding, each.dataset
        unit, normalisation = each.score.get("counted", "word"), each.score["normalisation"]
        texts = each.utterances
        table = made.get(place)
        if table is None:
            table = Table(*place, unit, normalisation, texts.names, texts.references, texts.speakers)
            made[place] = table
        elif reason := _differs(table, each, unit, normalisation):
            found.problems.append(f"{each.place}: not compared with the others: {reason}")
            continue
        system, seed, _ = split_seed(each.experiment)
        table.models.setdefault((system, seed), []).append(each)
    for table in made.values():
        table.models = _with_peers(table.models)
    return list(made.values())


def _differs(table: Table, each: Result, unit: str, normalisation: str) -> str:
    if (unit, normalisation) != (table.unit, table.normalisation):
        return (
            f"counted by {unit} after {normalisation}, they by {table.unit} after {table.normalisation}; "
            "score all of them alike"
        )
    if each.utterances.names != table.names:
        mine, theirs = set(each.utterances.names), set(table.names)
        return f"{len(mine - theirs)} utterances that they do not have, {len(theirs - mine)} missing"
    if each.utterances.references != table.references:
        pairs = zip(table.names, each.utterances.references, table.references, strict=True)
        first = next(name for name, mine, theirs in pairs if mine != theirs)
        return f"another reference, first of utterance {first}"
    mine, theirs = each.utterances.speakers, table.speakers
    if mine is not None and theirs is not None and mine != theirs:
        first = next(name for name, one, other in zip(table.names, mine, theirs, strict=True) if one != other)
        return f"another speaker, first of utterance {first}; run stage 11 (score) for all of them"
    return ""


#: Behind the name of a system: the one of its peers that was best in validation.
BEST = " (best peer)"


def _with_peers(models: Mapping[tuple[str, str], list[Result]]) -> dict[tuple[str, str], list[Result]]:
    """The peers of a training stand for it; the best of them, which is its folder's own model, stands beside.

    Choosing the best of several models is an advantage that a single model's training does not have.
    """
    found: dict[tuple[str, str], list[Result]] = {}
    for (system, seed), each in models.items():
        peers = [result for result in each if split_seed(result.experiment)[2]]
        best = [result for result in each if result not in peers]
        found[system, seed] = peers or best
        if peers and best:
            found[system + BEST, seed] = best
    return found


def draws_of(table: Table) -> tuple[Draws | None, dict[tuple[str, str], int]]:
    """Draws of all systems of a table together, and the column of each (system, seed)."""
    keys = list(table.models)
    errors = np.stack([table.errors(key) for key in keys], axis=1)
    groups = Groups.of(table.speakers, len(table.names))
    return draw(errors, table.units(), groups), {key: at for at, key in enumerate(keys)}


#: Which of equally frequent ways of decoding comes first.
_ORDER = {"tuned": 0, "joint": 1, "transducer": 2}
#: Ways that hear a half of a model: compared by where there is no other.
_HALVES = ("att", "ctc")


def main_ways(
    made: Iterable[Table], wanted: str | None = None, pairs: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
    """The way of decoding that each system is compared by.

    Systems that are compared with each other, in whatever many steps, have one in common: the one asked
    for, else one that all of them were decoded in, if they can the whole model's and not its attention's or
    its CTC's alone, else that of most results. One that was not decoded so has that of most of its own.
    Systems without a comparison are taken together; a transducer among attention models does not make CTC
    the way of all of them.

    Args:
        made: tables of all sets and ways.
        wanted: the way asked for.
        pairs: names of the systems of each comparison; names that no table has count for nothing.
    """
    of_system: dict[str, Counter] = {}
    for table in made:
        for system, _ in table.models:
            of_system.setdefault(system, Counter())[table.decoding] += 1
    compared, alone = _compared_together(of_system, pairs)
    found = {}
    for group in [*compared, alone]:
        everybody = Counter()
        for system in group:
            everybody.update(of_system[system])
        apart = {way for way in everybody if any(way not in of_system[system] for system in group)}
        common = _first(everybody, wanted, apart, group is alone)
        for system in group:
            counts = of_system[system]
            found[system] = common if common in counts else _first(counts, wanted, apart, group is alone)
    return found


def _first(counts: Counter, wanted: str | None, apart: set[str], whole_first: bool) -> str:
    """The way that comes first: ``apart`` are those that not all have."""

    def rank(way: str):
        kinds = (way in _HALVES, way in apart) if whole_first else (way in apart, way in _HALVES)
        return (way != wanted, *kinds, -counts[way], _ORDER.get(way, len(_ORDER)), way)

    return min(counts, key=rank, default="")


def _compared_together(
    systems: Mapping[str, Counter], pairs: Iterable[tuple[str, str]]
) -> tuple[list[list[str]], list[str]]:
    """Groups of systems that comparisons join, and the systems that none does."""
    group = {system: {system} for system in systems}
    for one, other in [*pairs, *((system.removesuffix(BEST), system) for system in systems)]:
        if one in group and other in group and group[one] is not group[other]:
            joined = group[one] | group[other]
            group.update(dict.fromkeys(joined, joined))
    groups = {id(members): sorted(members) for members in group.values() if len(members) > 1}
    return list(groups.values()), [system for system, members in group.items() if len(members) == 1]


def merged(made: Iterable[Table], ways: Mapping[str, str], found: Collection) -> list[Table]:
    """A table for each set, with every system decoded in its main way."""
    tables: dict[str, Table] = {}
    for table in sorted(made, key=lambda each: _ORDER.get(each.decoding, len(_ORDER))):
        mine = {key: models for key, models in table.models.items() if ways[key[0]] == table.decoding}
        if not mine:
            continue
        first = tables.setdefault(table.dataset, replace(table, decoding="", models={}))
        alike = (first.names, first.references, first.unit, first.normalisation) == (
            table.names,
            table.references,
            table.unit,
            table.normalisation,
        )
        if alike and (None in (first.speakers, table.speakers) or first.speakers == table.speakers):
            first.models |= mine
        else:
            names = ", ".join(sorted({system for system, _ in mine}))
            found.problems.append(
                f"{names} on {table.dataset}: not compared with the others: other sentences, "
                "references or speakers, or normalised otherwise"
            )
    for table in tables.values():
        table.models = dict(sorted(table.models.items()))
    return list(tables.values())
