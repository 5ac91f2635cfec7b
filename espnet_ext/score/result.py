"""``result.json``: rates of a set with their intervals, and where the errors are."""

from collections.abc import Callable, Sequence

import numpy as np

from espnet_ext.score.bootstrap import LEVEL, Groups, draw
from espnet_ext.score.errors import characters, count, rate, total
from espnet_ext.score.sets import TextSet
from espnet_ext.score.utterances import Utterances

#: Longest reference of each class of utterance lengths, in words (characters for languages without spaces).
LENGTHS = (5, 10, 15, 20, 30)


def score(texts: TextSet, tokenise: Callable[[str], Sequence] | None = None) -> Utterances:
    """Count the errors of every utterance.

    Args:
        texts: what to score.
        tokenise: sentence to the model's tokens; None: token errors are not counted.
    """
    spaces = texts.unit == "word"
    sides = texts.references, texts.hypotheses
    words = count(*([each.split() for each in side] for side in sides))
    letters = count(*([characters(each, spaces) for each in side] for side in sides))
    tokens = None if tokenise is None else count(*([tokenise(each) for each in side] for side in sides))
    return Utterances(texts.names, texts.speakers, words, letters, tokens, *sides)


def result(scored: Utterances, texts: TextSet) -> dict:
    """The contents of ``result.json``; docs/results_json.md describes them. Rates are in percent."""
    main = scored.counts(texts.unit)
    wrong = main[:, 1:].sum(1) > 0
    found = {
        "wer": rate(total(scored.words).errors, total(scored.words).reference)
        if texts.unit == "word"
        else None,
        "cer": rate(total(scored.characters).errors, total(scored.characters).reference),
        "ter": None
        if scored.tokens is None
        else rate(total(scored.tokens).errors, total(scored.tokens).reference),
        "ser": rate(int(wrong.sum()), len(wrong)),
        "unit": "percent",
        "counted": texts.unit,
        "sentences": len(wrong),
        "sentence_errors": int(wrong.sum()),
        "words": total(scored.words).as_dict(),
        "characters": total(scored.characters).as_dict(),
        "tokens": None if scored.tokens is None else total(scored.tokens).as_dict(),
        "normalisation": texts.normalisation,
        "intervals": _intervals(scored, texts.unit, wrong),
        "speakers": None if texts.speakers is None else _by(texts.speakers, main, wrong),
        "lengths": _by(length_classes(main[:, 0]), main, wrong),
        "notes": list(texts.notes),
    }
    return found


def _intervals(scored: Utterances, unit: str, wrong: np.ndarray) -> dict | None:
    groups = Groups.of(scored.speakers, len(scored.names))
    measures = {"cer": scored.characters, "ter": scored.tokens}
    if unit == "word":
        measures = {"wer": scored.words, **measures}
    kept = {name: each for name, each in measures.items() if each is not None and each[:, 0].any()}
    errors = np.stack([*(each[:, 1:].sum(1) for each in kept.values()), wrong], axis=1)
    units = np.stack([*(each[:, 0] for each in kept.values()), np.ones(len(wrong))], axis=1)
    draws = draw(errors, units, groups)
    if draws is None:
        return None
    found: dict = {"level": LEVEL, "drawn": groups.kind, "groups": groups.count, "draws": len(draws.moved)}
    for column, name in enumerate([*kept, "ser"]):
        each = draws.estimate([column])
        found[name] = [round(max(0.0, each.low), 4), round(each.high, 4)]
    return found


def length_classes(reference: np.ndarray) -> list[str]:
    """Each utterance's class by the length of its reference.

    >>> length_classes(np.array([0, 5, 6, 31]))
    ['0-5', '0-5', '6-10', '31+']
    """
    names = [f"{low + bool(low)}-{high}" for low, high in zip((0, *LENGTHS), LENGTHS, strict=False)]
    names.append(f"{LENGTHS[-1] + 1}+")
    return [names[at] for at in np.searchsorted(LENGTHS, reference)]


def _by(keys: Sequence[str], counts: np.ndarray, wrong: np.ndarray) -> list[dict]:
    """Errors of the utterances of each key, in the order of the keys (numbers before names)."""
    number = {key: at for at, key in enumerate(sorted(set(keys), key=_natural))}
    index = np.array([number[key] for key in keys])
    sums = np.stack([np.bincount(index, column, len(number)) for column in counts.T], axis=1)
    sentences = np.bincount(index, minlength=len(number))
    bad = np.bincount(index, wrong, len(number))
    return [
        {
            "name": key,
            "sentences": int(sentences[at]),
            "sentence_errors": int(bad[at]),
            **total(sums[at : at + 1]).as_dict(),
        }
        for key, at in number.items()
    ]


def _natural(key: str) -> tuple:
    head = key.rstrip("+").split("-")[0]
    return (0, int(head), key) if head.isascii() and head.isdigit() else (1, 0, key)
