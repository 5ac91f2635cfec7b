"""Counting errors: minimal edit distances over words and characters, all sentences in one call to jiwer.

Every error costs 1, so the number of errors is the smallest possible. sclite lets a substitution cost 4 and
a deletion or an insertion 3: it parts the same errors differently into the three kinds, and where a
sentence is recognised very badly it may count more of them ("a b c d e" heard as "x y z a b": 5 errors
here, 6 there).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
from jiwer.process import AlignmentChunk


@dataclass(frozen=True)
class Counts:
    """Errors of a set."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def reference(self) -> int:
        """Units (words or characters) in the references."""
        return self.hits + self.substitutions + self.deletions

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


@dataclass(frozen=True)
class Score:
    """What scoring a set gives.

    Attributes:
        words: errors over words.
        characters: errors over characters; the spaces between words are characters, as in ESPnet.
        sentences: number of sentences.
        sentence_errors: number of sentences with at least one wrong word.
        alignments: of the words of each sentence.
    """

    words: Counts
    characters: Counts
    sentences: int
    sentence_errors: int
    alignments: list[list[AlignmentChunk]]


def rate(errors: int, reference: int) -> float | None:
    """Errors in percent of the reference.

    >>> rate(1, 8), rate(0, 0), rate(3, 0)
    (12.5, 0.0, None)
    """
    if reference == 0:
        return None if errors else 0.0
    return round(100 * errors / reference, 4)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Score sentences whose words are parted by single spaces (see :func:`espnet_ext.score.sets.normalise`).

    Args:
        references: what was said; may be empty strings.
        hypotheses: what was recognised, in the same order.

    >>> score = count_errors(["a b c", ""], ["a c", ""])
    >>> score.words.deletions, score.sentence_errors, score.characters.deletions
    (1, 1, 2)
    """
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    return Score(
        words=_counts(words),
        characters=_counts(characters),
        sentences=len(words.references),
        sentence_errors=sum(
            one != other for one, other in zip(words.references, words.hypotheses, strict=True)
        ),
        alignments=words.alignments,
    )


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> Counts:
    return Counts(output.hits, output.substitutions, output.deletions, output.insertions)
