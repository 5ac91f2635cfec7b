"""Alignments for reading: what was said above what was recognised, word under word."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from jiwer.process import AlignmentChunk

from espnet_ext.score.errors import Score

#: A word, or None where the other side has one too many.
Pair = tuple[str | None, str | None]
_SHOWN = 20
_GAP = "*"


def pairs(
    reference: Sequence[str], hypothesis: Sequence[str], chunks: Iterable[AlignmentChunk]
) -> list[Pair]:
    """Word pairs of one aligned sentence, in order."""
    found: list[Pair] = []
    for chunk in chunks:
        ref = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        hyp = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            found.extend((word, None) for word in ref)
        elif chunk.type == "insert":
            found.extend((None, word) for word in hyp)
        else:
            found.extend(zip(ref, hyp, strict=True))
    return found


def mark(pair: Pair) -> str:
    """``S``, ``D``, ``I`` or nothing.

    >>> [mark(pair) for pair in [("a", "a"), ("a", "b"), ("a", None), (None, "a")]]
    ['', 'S', 'D', 'I']
    """
    ref, hyp = pair
    if ref == hyp:
        return ""
    return "D" if hyp is None else "I" if ref is None else "S"


def width(word: str) -> int:
    """Columns that a word takes in a terminal: two for wide characters, none for combining ones.

    >>> width("a"), width("\\u8a9e"), width("e\\u0301")
    (1, 2, 1)
    """
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in word
    )


def alignment_lines(
    names: Sequence[str], references: Sequence[str], hypotheses: Sequence[str], score: Score
) -> Iterator[str]:
    """The lines of ``alignment.txt``: the most frequent confusions, then every sentence."""
    aligned = [
        pairs(ref.split(), hyp.split(), chunks)
        for ref, hyp, chunks in zip(references, hypotheses, score.alignments, strict=True)
    ]
    confusions = Counter(pair for each in aligned for pair in each if mark(pair))
    yield f"Most frequent of {len(confusions)} confusions (reference -> hypothesis, * is nothing):"
    for (ref, hyp), count in sorted(confusions.items(), key=_by_count)[:_SHOWN]:
        yield f"{count:6d}  {ref or _GAP} -> {hyp or _GAP}"
    for name, each in zip(names, aligned, strict=True):
        yield ""
        yield from _sentence(name, each)


def _by_count(item: tuple[Pair, int]):
    (ref, hyp), count = item
    return -count, ref or "", hyp or ""


def _sentence(name: str, aligned: list[Pair]) -> Iterator[str]:
    marks = [mark(pair) for pair in aligned]
    counts = ", ".join(f"{marks.count(kind)} {kind}" for kind in "SDI" if kind in marks)
    words = sum(ref is not None for ref, _ in aligned)
    yield f"{name} ({counts or 'correct'}; {words} words)"
    rows = ["REF:"], ["HYP:"], ["    "]
    for (ref, hyp), kind in zip(aligned, marks, strict=True):
        columns = max(width(ref or ""), width(hyp or ""))
        for row, cell in zip(rows, (ref, hyp, kind), strict=True):
            cell = _GAP * columns if cell is None else cell
            row.append(cell + " " * (columns - width(cell)))
    for row in rows if counts else rows[:2]:
        yield " ".join(row).rstrip()
