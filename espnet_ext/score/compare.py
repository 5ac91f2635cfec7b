"""A system beside its control on a set: one paired bootstrap, corrected over all comparisons that are made.

Legend: a column is a trained model (a system with a seed) on a set; `espnet_ext.score.bootstrap` draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from espnet_ext.score.bootstrap import LEVEL, Draws, Estimate
from espnet_ext.score.mapsswe import Mapsswe

#: A comparison whose corrected p is smaller shows a difference.
ALPHA = round(1 - LEVEL, 10)


@dataclass(frozen=True)
class Comparison:
    """What a pair of systems showed on a set.

    Attributes:
        system, control: names; a negative difference means that the system makes fewer errors.
        dataset: the set.
        measure: ``wer`` or ``cer``.
        seeds: trainings that both have; their results are paired.
        unpaired: trainings that only one has, left out.
        rates: of both in percent, mean over the seeds.
        difference: in percentage points.
        drawn, groups: what the bootstrap drew, and of how many.
        mapsswe: matched-pair test of each seed, a detail.
        corrected_p: Holm's; None outside of a family of comparisons.
        comparisons: size of that family.
    """

    system: str
    control: str
    dataset: str
    measure: str
    seeds: tuple[str, ...]
    unpaired: tuple[str, ...]
    rates: tuple[float, float]
    difference: Estimate
    drawn: str
    groups: int
    mapsswe: tuple[Mapsswe, ...] = ()
    corrected_p: float | None = None
    comparisons: int = 1

    @property
    def p(self) -> float:
        """The p that decides: corrected where there is a family."""
        return self.difference.p if self.corrected_p is None else self.corrected_p

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.p < ALPHA

    def relative(self, points: float | None) -> float | None:
        """Points in percent of the control's rate, None where that is 0."""
        return 100 * points / self.rates[1] if self.rates[1] and points is not None else None

    @property
    def detectable(self) -> float | None:
        """The change, in points, that this test would have seen four times in five."""
        return self.difference.detectable(self.comparisons)


def compare(
    draws: Draws, system: dict[str, int], control: dict[str, int], names: tuple[str, str, str, str]
) -> Comparison:
    """Compare two systems.

    Args:
        draws: of a set that holds the columns of both.
        system: column of each seed.
        control: column of each seed.
        names: of system, control, set and measure.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(set(system) & set(control))
    if not seeds:
        raise ValueError(f"{names[0]} and {names[1]} have no seed in common")
    columns = [[each[seed] for seed in seeds] for each in (system, control)]
    return Comparison(
        *names,
        seeds=tuple(seeds),
        unpaired=tuple(sorted(set(system) ^ set(control))),
        rates=tuple(float(draws.rates[each].mean()) for each in columns),
        difference=draws.estimate(*columns),
        drawn=draws.groups.kind,
        groups=draws.groups.count,
    )


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction (1979) over a family: the chance of any false difference is at most 5 %."""
    adjusted = holm([each.difference.p for each in comparisons])
    return [
        replace(each, corrected_p=p, comparisons=len(comparisons))
        for each, p in zip(comparisons, adjusted, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda each: ps[each])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = largest
    return adjusted
