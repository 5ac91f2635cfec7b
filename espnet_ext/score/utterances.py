"""``utterances.tsv``: what was said and recognised, who spoke, and the errors of every utterance of a set.

It is what sets of several systems are compared from, so it holds the texts as they were compared, after
normalisation. Counts are (reference, substitutions, deletions, insertions), N utterances.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines

NAME = "utterances.tsv"
_LEVELS = ("words", "characters", "tokens")
_COLUMNS = [
    "utterance",
    "speaker",
    *(f"{level}{kind}" for level in _LEVELS for kind in ("", "_S", "_D", "_I")),
    "reference",
    "hypothesis",
]


@dataclass(frozen=True)
class Utterances:
    """A scored set.

    Attributes:
        names: utterance ids.
        speakers: of each utterance, None where they are not known.
        words, characters: (N, 4) counts.
        tokens: (N, 4) counts, None where tokens were not scored.
        references, hypotheses: normalised sentences.
    """

    names: list[str]
    speakers: list[str] | None
    words: np.ndarray
    characters: np.ndarray
    tokens: np.ndarray | None
    references: list[str]
    hypotheses: list[str]

    def counts(self, unit: str) -> np.ndarray:
        """(N, 4) counts of what errors are counted over first, ``word`` or ``char``."""
        return self.characters if unit == "char" else self.words


def units_of(sentence: str, unit: str) -> list[str]:
    """What a sentence is aligned by: words, or characters without spaces.

    >>> units_of("a bc", "word"), units_of("a bc", "char")
    (['a', 'bc'], ['a', 'b', 'c'])
    """
    return sentence.split() if unit == "word" else list(sentence.replace(" ", ""))


def lines(scored: Utterances) -> Iterator[str]:
    """The lines of the file; empty cells for what is not known."""
    yield "\t".join(_COLUMNS)
    speakers = scored.speakers or [""] * len(scored.names)
    counts = [scored.words.tolist(), scored.characters.tolist()]
    counts.append(scored.tokens.tolist() if scored.tokens is not None else [[""] * 4] * len(scored.names))
    rows = zip(scored.names, speakers, *counts, scored.references, scored.hypotheses, strict=True)
    for name, speaker, words, characters, tokens, ref, hyp in rows:
        yield "\t".join((name, speaker, *map(str, words), *map(str, characters), *map(str, tokens), ref, hyp))


def read(path: Path) -> Utterances:
    """Read the file.

    Raises:
        UserError: it is not as :func:`lines` writes it.
    """
    found = []
    for number, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) != len(_COLUMNS) or (number == 1 and cells != _COLUMNS):
            raise UserError(
                f"{path}:{number}: expected {len(_COLUMNS)} columns ({', '.join(_COLUMNS[:3])}, ...), found "
                f"{len(cells)}; run stage 11 (score) again"
            )
        found.append(cells)
    if len(found) < 2:
        raise UserError(f"{path}: no utterance in it; run stage 11 (score) again")
    columns = list(zip(*found[1:], strict=True))
    try:
        words, characters, tokens = (
            None
            if not columns[at][0]
            else np.array([columns[at + each] for each in range(4)], dtype=np.int64).T
            for at in (2, 6, 10)
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected whole numbers; run stage 11 (score) again") from None
    speakers = list(columns[1]) if columns[1][0] else None
    return Utterances(
        list(columns[0]), speakers, words, characters, tokens, list(columns[14]), list(columns[15])
    )
