"""Counting errors as sclite counts them: the alignment that is cheapest with its costs, all sets vectorised.

sclite lets a substitution cost 4, a deletion or an insertion 3, and takes the cheapest alignment, of equally
cheap ones that with fewer errors. That parts errors into the three kinds, and where a sentence is recognised
very badly it may count more of them than the smallest number of edits ("a b c d e" heard as "x y z a b": 6
here and there, 5 edits would do).

Legend: N utterances; a row of counts is (units of the reference, substitutions, deletions, insertions).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

#: Columns of counts.
REFERENCE, SUBSTITUTIONS, DELETIONS, INSERTIONS = range(4)
#: sclite's costs, and far behind them 1 an error: the cheapest alignment, then the one with fewer errors.
_BEHIND = 1 << 32
_WEIGHTS = (3 * _BEHIND + 1, 3 * _BEHIND + 1, 4 * _BEHIND + 1)  # insertion, deletion, substitution


@dataclass(frozen=True)
class Counts:
    """Errors of a set, or of a part of it."""

    reference: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def hits(self) -> int:
        """Units that were recognised."""
        return self.reference - self.substitutions - self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    def as_dict(self) -> dict:
        """For result.json; ``rate`` is in percent, None where there are errors and nothing to recognise."""
        return {
            "rate": rate(self.errors, self.reference),
            "errors": self.errors,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "hits": self.hits,
            "reference": self.reference,
        }


def total(counts: np.ndarray) -> Counts:
    """Sum of rows of counts, (N, 4).

    >>> total(count([["a", "b"], ["c"]], [["a"], ["c", "d"]])).as_dict()["rate"]
    66.6667
    """
    return Counts(*map(int, counts.sum(0)))


def rate(errors: int, reference: int) -> float | None:
    """Errors in percent of the reference.

    >>> rate(1, 8), rate(0, 0), rate(3, 0)
    (12.5, 0.0, None)
    """
    if reference == 0:
        return None if errors else 0.0
    return round(100 * errors / reference, 4)


def count(references: Iterable[Sequence], hypotheses: Iterable[Sequence]) -> np.ndarray:
    """Count the errors of every utterance.

    Args:
        references: units (words, characters, tokens) of each utterance; a string is its characters.
        hypotheses: in the same order.

    Returns:
        (N, 4) counts.

    >>> count([["a", "b", "c"], [], "abc"], [["a", "c"], ["d"], "abd"]).tolist()
    [[3, 0, 1, 0], [0, 0, 0, 1], [3, 1, 0, 0]]
    """
    rows = []
    for ref, hyp in zip(references, hypotheses, strict=True):
        rows.append((len(ref), 0, 0, 0) if ref == hyp else (len(ref), *kinds(*_trimmed(ref, hyp))))
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def kinds(ref: Sequence, hyp: Sequence) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of one utterance.

    >>> kinds("abcde", "xyzab")
    (0, 3, 3)
    """
    # Cost and number of errors say how many there are of each kind: with e errors, s of them substitutions,
    # the cost is 3 e + s; deletions and insertions differ by the lengths.
    cost, errors = divmod(Levenshtein.distance(ref, hyp, weights=_WEIGHTS), _BEHIND)
    substitutions = cost - 3 * errors
    insertions = (errors - substitutions + len(hyp) - len(ref)) // 2
    return substitutions, errors - substitutions - insertions, insertions


def _trimmed(ref: Sequence, hyp: Sequence) -> tuple[Sequence, Sequence]:
    """Both without what they begin and end with alike: it is a hit in a cheapest alignment."""
    most, start = min(len(ref), len(hyp)), 0
    while start < most and ref[start] == hyp[start]:
        start += 1
    end = 0
    while end < most - start and ref[-1 - end] == hyp[-1 - end]:
        end += 1
    return ref[start : len(ref) - end], hyp[start : len(hyp) - end]


def characters(sentence: str, spaces: bool = True) -> str:
    """What character errors are counted over: spaces between words are characters, as in ESPnet.

    Args:
        sentence: normalised.
        spaces: False for languages without spaces, where a space means nothing.
    """
    return sentence if spaces else sentence.replace(" ", "")
