"""Reading what is compared: two files over the same utterances, or a message that says how they differ."""

import os

from espnet_ext.data.kaldi import Table, read_table
from espnet_ext.errors import UserError

#: What is done to both sides before they are compared; stands in result.json.
NORMALISATION = "white space only"
_SHOWN = 5


def normalise(sentence: str) -> str:
    """Words parted by single spaces; nothing else is touched: case and punctuation count.

    >>> normalise(" a\\u3000b  c")
    'a b c'
    """
    return " ".join(sentence.split())


def read_pair(ref: str | os.PathLike, hyp: str | os.PathLike) -> tuple[list[str], list[str], list[str]]:
    """Read references and hypotheses.

    Returns:
        utterance ids, references and hypotheses (normalised), in the same order.

    Raises:
        UserError: a file is malformed (see :func:`espnet_ext.data.kaldi.read_table`), or an utterance is in
            one file only: an error rate over a part of a set cannot be compared with anything.
    """
    refs = read_table(ref, value="transcript", empty_values=True)
    hyps = read_table(hyp, value="hypothesis", empty_values=True)
    _check_covered(refs, hyps, "was not recognised; run stage 10 (decode) again")
    _check_covered(hyps, refs, "has no reference; were the files made from different sets?")
    return (
        list(refs.rows),
        [normalise(sentence) for sentence in refs.rows.values()],
        [normalise(hyps.rows[name]) for name in refs.rows],
    )


def _check_covered(one: Table, other: Table, what: str) -> None:
    absent = [name for name in one.rows if name not in other.rows]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise UserError(
            f"{other.path}: {len(absent)} of the {len(one.rows)} utterances of {one.path} are missing: "
            f"{', '.join(map(repr, absent[:_SHOWN]))}{more}. The first ({one.where(absent[0])}) {what}"
        )
