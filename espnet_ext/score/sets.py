"""Reading what is compared: two files over the same utterances, or a message that says how they differ."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.kaldi import read_table
from espnet_ext.errors import UserError
from espnet_ext.score.normalise import find, nfc, spaceless

_SHOWN = 5
#: What an error is counted over first; auto looks at the references' script.
UNITS = ("auto", "word", "char")


@dataclass(frozen=True)
class TextSet:
    """References and hypotheses of the same utterances, normalised, in the same order.

    Attributes:
        names: utterance ids.
        references: what was said.
        hypotheses: what was recognised.
        speakers: of each utterance, None where they are not known.
        normalisation: full name of the step both sides went through.
        unit: ``word``, or ``char`` for languages without spaces.
        notes: what a reader of the numbers should know.
    """

    names: list[str]
    references: list[str]
    hypotheses: list[str]
    speakers: list[str] | None
    normalisation: str
    unit: str
    notes: tuple[str, ...] = ()


def read_pair(
    ref: str | os.PathLike,
    hyp: str | os.PathLike,
    utt2spk: str | os.PathLike | None = None,
    normalisation: str = "space",
    unit: str = "auto",
) -> TextSet:
    """Read references and hypotheses, `<id> <sentence>` lines, and who spoke.

    Raises:
        UserError: a file is malformed (see :func:`espnet_ext.data.kaldi.read_table`), or an utterance is in
            one file only: an error rate over a part of a set cannot be compared with anything.
    """
    refs = read_table(ref, value="transcript", empty_values=True)
    hyps = read_table(hyp, value="hypothesis", empty_values=True)
    speakers = None if utt2spk is None else read_table(utt2spk, value="speaker").rows
    return text_set(refs.rows, hyps.rows, (str(ref), str(hyp)), speakers, normalisation, unit)


def text_set(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    files: tuple[str, str],
    speakers: Mapping[str, str] | None = None,
    normalisation: str = "space",
    unit: str = "auto",
) -> TextSet:
    """Put two mappings from utterance ids to sentences beside each other; ``files`` are for messages.

    Raises:
        UserError: they, or the speakers, are not of the same utterances.
    """
    check_covered(references, hypotheses, files, "was not recognised; run stage 10 (decode) again")
    check_covered(
        hypotheses, references, files[::-1], "has no reference; were the files made from different sets?"
    )
    full, function = find(normalisation)
    names = list(references)
    if speakers is not None and (absent := [name for name in names if name not in speakers]):
        raise UserError(
            f"{files[0]}: utterance {absent[0]!r} has no speaker in utt2spk, and so it is with {len(absent)} "
            f"of {len(names)}: were the files made from different sets?"
        )
    raw = list(references.values()), [hypotheses[name] for name in names]
    sides = [[function(sentence) for sentence in side] for side in raw]
    if unit == "auto":
        unit = "char" if spaceless(sides[0]) else "word"
    return TextSet(
        names,
        sides[0],
        sides[1],
        None if speakers is None else [speakers[name] for name in names],
        full,
        unit,
        tuple(_notes(sides[0], sides[1])),
    )


def check_covered(one: Mapping, other: Mapping, files: tuple[str, str], what: str) -> None:
    """Refuse utterances of ``one`` (its file is ``files[0]``) that ``other`` does not have."""
    absent = [name for name in one if name not in other]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        line = list(one).index(absent[0]) + 1
        raise UserError(
            f"{files[1]}: {len(absent)} of the {len(one)} utterances of {files[0]} are missing: "
            f"{', '.join(map(repr, absent[:_SHOWN]))}{more}. The first ({files[0]}:{line}) {what}"
        )


def _notes(references: list[str], hypotheses: list[str]):
    if not any(references):
        yield "all references are empty: no rate is defined"
    elif empty := sum(not each for each in references):
        yield f"{empty} references are empty: every word recognised there counts as inserted"
    if empty := sum(not hyp and bool(ref) for ref, hyp in zip(references, hypotheses, strict=True)):
        yield f"{empty} of {len(hypotheses)} hypotheses are empty: all their words count as deleted"
    differing = sum(
        ref != hyp and not (ref.isascii() and hyp.isascii()) and nfc(ref) == nfc(hyp)
        for ref, hyp in zip(references, hypotheses, strict=True)
    )
    if differing:
        yield (
            f"{differing} utterances are wrong only in how letters with marks are encoded; the normalisation "
            "nfc takes them for equal"
        )


def utt2spk_beside(ref: str | os.PathLike) -> Path | None:
    """The ``utt2spk`` in the folder of the references, None where there is none."""
    path = Path(ref).parent / "utt2spk"
    return path if path.is_file() else None
