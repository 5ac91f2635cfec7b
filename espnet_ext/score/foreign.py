"""Transcripts that this project did not write: sclite's ``trn``, Kaldi's ``text`` in any order, bare lines.

What is read leniently is order and white space. Ids that occur twice, bytes that are not UTF-8, and two
files over different utterances are refused as everywhere.
"""

import os
import re

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines

_TRN = re.compile(r"(.*)\(([^()\s]+)\)\s*\Z", re.DOTALL)


def read_trn(path: str | os.PathLike) -> dict[str, str]:
    """Sentences of a ``trn`` file, lines ``<sentence> (<id>)``.

    Raises:
        UserError: a line is not so, an id occurs twice, or the file is empty or not UTF-8.
    """
    rows: dict[str, str] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        match = _TRN.fullmatch(line)
        if match is None:
            raise UserError(f"{path}:{number}: expected '<sentence> (<id>)', found {line[:80]!r}")
        _add(rows, match[2], match[1], path, number)
    return _not_empty(rows, path)


def trn_speaker(name: str) -> str:
    """Speaker of an id of ``trn`` files: ESPnet writes ``<speaker>-<utterance>``.

    An utterance id usually begins with the speaker's, so a prefix that is repeated is taken; else, as sclite
    does, what stands before the first hyphen or underscore.

    >>> trn_speaker("1089-1089-134686-0000"), trn_speaker("spk_a-spk_a-001"), trn_speaker("bob_12")
    ('1089', 'spk_a', 'bob')
    """
    for at, letter in enumerate(name):
        if letter == "-" and at and name[at + 1 :].startswith(name[:at]):
            return name[:at]
    return re.split("[-_]", name, maxsplit=1)[0] or name


def read_sides(
    ref: str | os.PathLike, hyp: str | os.PathLike
) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None, str]:
    """Two files of the same kind: ``trn``, lines with ids, or bare sentences line by line.

    Returns:
        references, hypotheses, speakers (of ``trn`` alone), and in words what the ids are.

    Raises:
        UserError: a file is malformed, or the two cannot be put beside each other.
    """
    lines = [[(n, line) for n, line in read_lines(path) if line.strip()] for path in (ref, hyp)]
    for path, side in zip((ref, hyp), lines, strict=True):
        if not side:
            raise UserError(f"{path}: the file is empty; expected a sentence on every line")
    if all(_TRN.fullmatch(line) for side in lines for _, line in side):
        sides = read_trn(ref), read_trn(hyp)
        return *sides, {name: trn_speaker(name) for name in sides[0]}, "ids in brackets (trn)"
    if _have_ids(*([line.split(maxsplit=1)[0] for _, line in side] for side in lines)):
        sides = _table(ref), _table(hyp)
        return *sides, None, "ids are the first words of the lines"
    counts = [sum(1 for _ in read_lines(path)) for path in (ref, hyp)]
    if counts[0] != counts[1]:
        raise UserError(
            f"{hyp}: {counts[1]} lines, but {ref} has {counts[0]}, and the lines do not begin with ids "
            "that both share: sentences without ids can only be compared line by line"
        )
    sides = _numbered(ref), _numbered(hyp)
    return *sides, None, "no ids: compared line by line"


def _have_ids(refs: list[str], hyps: list[str]) -> bool:
    """Whether the first words of the lines are ids rather than words.

    They are if hardly one of the references' occurs twice, and either nearly all have a digit in them or most
    are not plain words and occur in both files. A few may be missing or doubled: that is refused later, with
    the line, rather than taken for text.
    """
    distinct, shared = set(refs), set(refs) & set(hyps)
    if 10 * len(distinct) < 9 * len(refs):
        return False
    both = refs + hyps
    if 10 * sum(any(map(str.isdigit, each)) for each in both) >= 9 * len(both):
        return True
    named = sum(not each.isalpha() for each in shared)
    return 2 * named > len(shared) and 2 * len(shared) > max(len(distinct), len(set(hyps)))


def _table(path) -> dict[str, str]:
    rows: dict[str, str] = {}
    for number, line in read_lines(path):
        if line.strip():
            key, _, sentence = line.strip().partition(" ")
            if "\t" in key:
                key, _, rest = key.partition("\t")
                sentence = f"{rest} {sentence}"
            _add(rows, key, sentence, path, number)
    return _not_empty(rows, path)


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """Sentences of a file of lines ``<id> <sentence>`` in any order.

    Raises:
        UserError: an id occurs twice, or the file is empty or not UTF-8.
    """
    return _table(path)


def _numbered(path) -> dict[str, str]:
    return {f"line-{number:06d}": line for number, line in read_lines(path)}


def _add(rows: dict[str, str], key: str, sentence: str, path, number: int) -> None:
    if key in rows:
        raise UserError(f"{path}:{number}: the id {key!r} occurs twice; every utterance may be there once")
    rows[key] = sentence.replace("\ufeff", "").strip()


def _not_empty(rows: dict[str, str], path) -> dict[str, str]:
    if not rows:
        raise UserError(f"{path}: the file is empty; expected a sentence on every line")
    return rows
