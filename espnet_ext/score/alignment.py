"""Alignments for reading: what was said above what was recognised, word under word."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from kaldialign import align as _align

from espnet_ext.score.errors import kinds

#: A word, or None where the other side has one too many.
Pair = tuple[str | None, str | None]
_SHOWN = 20
_GAP = "*"
_NOTHING = "\0"  # in no word: it is a control character, which no transcript may hold


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Pairs of units of one sentence, in order; the errors are those of `errors.count`.

    >>> align(["the", "cat", "sat"], ["the", "cut", "sat", "on"])
    [('the', 'the'), ('cat', 'cut'), ('sat', 'sat'), (None, 'on')]
    """
    if reference == hypothesis:
        return list(zip(reference, hypothesis, strict=True))
    # From behind, it puts a gap where sclite puts it: as far in front as possible.
    found = [
        (None if ref == _NOTHING else ref, None if hyp == _NOTHING else hyp)
        for ref, hyp in _align(reference[::-1], hypothesis[::-1], _NOTHING, sclite_mode=True)
    ][::-1]
    marks = [mark(pair) for pair in found]
    # Of equally cheap alignments it may take one with more errors.
    if tuple(marks.count(kind) for kind in "SDI") != kinds(reference, hypothesis):
        return _fewest(reference, hypothesis)
    return found


def _fewest(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """The cheapest alignment, of equally cheap ones that with fewest errors; slow."""
    row = [(3 * at, at, "I" * at) for at in range(len(hypothesis) + 1)]  # cost, errors, operations
    for ref in reference:
        above, row = row, [(row[0][0] + 3, row[0][1] + 1, row[0][2] + "D")]
        for at, hyp in enumerate(hypothesis):
            cost, errors, path = above[at]
            kept = (cost, errors, path + "C") if ref == hyp else (cost + 4, errors + 1, path + "S")
            (cost, errors, path), (other, more, way) = above[at + 1], row[at]
            ways = (kept, (other + 3, more + 1, way + "I"), (cost + 3, errors + 1, path + "D"))
            row.append(min(ways, key=lambda each: each[:2]))
    refs, hyps = iter(reference), iter(hypothesis)
    return [(None if kind == "I" else next(refs), None if kind == "D" else next(hyps)) for kind in row[-1][2]]


def mark(pair: Pair) -> str:
    """``S``, ``D``, ``I`` or nothing.

    >>> [mark(pair) for pair in [("a", "a"), ("a", "b"), ("a", None), (None, "a")]]
    ['', 'S', 'D', 'I']
    """
    ref, hyp = pair
    if ref == hyp:
        return ""
    return "D" if hyp is None else "I" if ref is None else "S"


def operations(aligned: Iterable[Pair]) -> str:
    """An alignment as a letter a pair, ``C`` for a correct one: with both sentences it is the alignment.

    >>> operations([("a", "a"), ("b", None), (None, "c")])
    'CDI'
    """
    return "".join(mark(pair) or "C" for pair in aligned)


def confusions(aligned: Iterable[Iterable[Pair]]) -> list[tuple[Pair, int]]:
    """Pairs that differ, the most frequent first."""
    found = Counter(pair for each in aligned for pair in each if mark(pair))
    return sorted(found.items(), key=_by_count)


def width(word: str) -> int:
    """Columns that a word takes in a terminal: two for wide characters, none for combining ones.

    >>> width("a"), width("\\u8a9e"), width("e\\u0301")
    (1, 2, 1)
    """
    if word.isascii():
        return len(word)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in word
    )


def alignment_lines(
    names: Sequence[str], references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> Iterator[str]:
    """The lines of ``alignment.txt``: the most frequent confusions, then every sentence.

    Args:
        names: utterance ids.
        references: words of each utterance.
        hypotheses: words of each utterance.
    """
    found: Counter = Counter()
    for ref, hyp in zip(references, hypotheses, strict=True):
        if ref != hyp:
            found.update(pair for pair in align(ref, hyp) if mark(pair))
    yield f"Most frequent of {len(found)} confusions (reference -> hypothesis, * is nothing):"
    for (ref, hyp), count in sorted(found.items(), key=_by_count)[:_SHOWN]:
        yield f"{count:6d}  {ref or _GAP} -> {hyp or _GAP}"
    # Aligned again rather than kept: a hundred thousand alignments would take a gigabyte.
    for name, ref, hyp in zip(names, references, hypotheses, strict=True):
        yield ""
        yield from _sentence(name, ref, hyp)


def _by_count(item: tuple[Pair, int]):
    (ref, hyp), count = item
    return -count, ref or "", hyp or ""


def _sentence(name: str, reference: Sequence[str], hypothesis: Sequence[str]) -> Iterator[str]:
    if reference == hypothesis:
        yield f"{name} (correct; {len(reference)} words)"
        yield " ".join(["REF:", *reference])
        yield " ".join(["HYP:", *hypothesis])
        return
    aligned = align(reference, hypothesis)
    marks = [mark(pair) for pair in aligned]
    counts = ", ".join(f"{marks.count(kind)} {kind}" for kind in "SDI" if kind in marks)
    yield f"{name} ({counts}; {len(reference)} words)"
    rows = ["REF:"], ["HYP:"], ["    "]
    for (ref, hyp), kind in zip(aligned, marks, strict=True):
        columns = max(width(ref or ""), width(hyp or ""))
        for row, cell in zip(rows, (ref, hyp, kind), strict=True):
            cell = _GAP * columns if cell is None else cell
            row.append(cell + " " * (columns - width(cell)))
    for row in rows:
        yield " ".join(row).rstrip()
