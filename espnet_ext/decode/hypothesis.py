"""What a search returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """One recognised token sequence.

    Attributes:
        tokens: token ids without ``<sos>``, ``<eos>`` and blank.
        score: natural logarithm of the (weighted) probability the search maximises.
        truncated: the search was cut at its length limit instead of ending at ``<eos>``.
    """

    tokens: tuple[int, ...]
    score: float
    truncated: bool = False
