"""Utterances that are left out: counted by reason, listed, and too many of them are an error."""

from collections.abc import Iterable
from pathlib import Path

from espnet_ext.data.kaldi import write_table
from espnet_ext.errors import UserError


class Drops:
    """Collects what is dropped from one data set."""

    def __init__(self, what: str):
        """``what`` names the set in messages."""
        self.what = what
        self.reasons: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, utterance: str, reason: str, where: str) -> None:
        """Drop an utterance for a reason; ``where`` is the file:line at fault."""
        self.reasons[utterance] = reason
        self._first.setdefault(reason, f"{where} {utterance!r}")
        self._count[reason] = self._count.get(reason, 0) + 1

    def __contains__(self, utterance: str) -> bool:
        return utterance in self.reasons

    def __len__(self) -> int:
        return len(self.reasons)

    def lines(self) -> Iterable[str]:
        """One line a reason: how many, and the first."""
        for reason, count in self._count.items():
            yield f"dropped {count}: {reason} (first: {self._first[reason]})"

    def check(self, total: int, limit: float, option: str = "--max_drop_fraction") -> None:
        """Raise a UserError if all, or more than the fraction ``limit``, of ``total`` were dropped."""
        fraction = len(self) / total
        if fraction > limit or len(self) == total:
            raise UserError(
                f"{self.what}: {len(self)} of {total} utterances ({100 * fraction:.1f} %) would be dropped, "
                f"the limit is {100 * limit:g} % ({option}); " + "; ".join(self.lines())
            )

    def write(self, path: Path) -> None:
        """Write ``<utterance> <reason>`` lines (an empty file if nothing was dropped)."""
        write_table(path, self.reasons)
