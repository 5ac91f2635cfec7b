"""The matched-pair sentence-segment word error test (Gillick & Cox 1989), segmented as ``sc_stats`` does it.

A segment begins and ends where both systems recognised at least two words in a row; the numbers of errors of
two segments are then taken for independent. The test is blind to training: it compares two sets of
hypotheses, here those of one seed, and is a detail beside the bootstrap (:mod:`espnet_ext.score.compare`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Words that both systems must have right between two segments.
MIN_GOOD = 2


@dataclass(frozen=True)
class Mapsswe:
    """Result of the test: ``mean`` errors more of the first system in a segment, ``z``, two-sided p."""

    segments: int
    mean: float
    deviation: float
    z: float
    p: float


def mapsswe(first: Iterable[str], second: Iterable[str]) -> Mapsswe:
    """Compare two systems on the same utterances.

    Args:
        first: operations of each utterance (:func:`espnet_ext.score.alignment.operations`).
        second: those of the other system, in the same order.

    >>> mapsswe(["CCSCC", "CDCCC"], ["CCCCC", "CCCCI"]).segments
    3
    """
    differences = [
        one - other
        for a, b in zip(first, second, strict=True)
        if a.count("C") < len(a) or b.count("C") < len(b)
        for one, other in segments(a, b)
    ]
    count = len(differences)
    if count < 2:
        return Mapsswe(count, sum(differences) / max(count, 1), 0.0, 0.0, 1.0)
    mean = sum(differences) / count
    deviation = math.sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1))
    z = mean / (deviation / math.sqrt(count)) if deviation else math.inf * mean if mean else 0.0
    return Mapsswe(count, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2)))


def segments(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of an utterance, as ``test_comp_sents`` of SCTK finds them."""
    found: list[tuple[int, int]] = []
    at, to = 0, 0  # where each operation string is read
    good = start_one = start_other = 0
    state = "begin"  # begin: no error yet; error; good: correct words after an error

    def store(end_one: int, end_other: int) -> None:
        errors = (
            _errors(one, start_one - MIN_GOOD + 1, end_one),
            _errors(other, start_other - MIN_GOOD + 1, end_other),
        )
        if any(errors):
            found.append(errors)

    while at < len(one) or to < len(other):
        while at < len(one) and one[at] == "I":
            at, state = at + 1, "error"
        while to < len(other) and other[to] == "I":
            to, state = to + 1, "error"
        right = at < len(one) and one[at] == "C" and to < len(other) and other[to] == "C"
        if not right:
            state = "error"
        elif state == "begin":
            start_one, start_other = at, to
        else:
            good = good + 1 if state == "good" else 1
            state = "good"
            if good == MIN_GOOD:
                store(at, to)
                start_one, start_other, state = at, to, "begin"
        at, to = min(at + 1, len(one)), min(to + 1, len(other))
    if state != "begin":
        store(at - 1, to - 1)
    return found


def _errors(operations: Sequence[str], start: int, end: int) -> int:
    return sum(each != "C" for each in operations[max(start, 0) : end + 1])
