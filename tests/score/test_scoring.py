"""What is counted beside the totals: speakers, lengths, tokens, languages without spaces, normalisations."""

import random

import jiwer
import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.score import utterances
from espnet_ext.score.errors import count, total
from espnet_ext.score.normalise import NORMALISATIONS, describe, find
from espnet_ext.score.result import result, score
from espnet_ext.score.sets import text_set

FILES = ("ref", "hyp")


def scored(references, hypotheses, speakers=None, tokenise=None, **more):
    """Utterances and result.json of sentences; the ids are their numbers."""
    ids = [f"u{at:03}" for at in range(len(references))]
    sides = (dict(zip(ids, side, strict=True)) for side in (references, hypotheses))
    of = None if speakers is None else dict(zip(ids, speakers, strict=True))
    texts = text_set(*sides, FILES, of, **more)
    each = score(texts, tokenise)
    return each, result(each, texts)


def test_speakers_and_lengths_add_up():
    generator = random.Random(0)
    references = [" ".join(generator.choices("abcdefgh", k=generator.randrange(0, 40))) for _ in range(60)]
    hypotheses = [each.replace("a", "x").replace("b ", "") for each in references]
    _, found = scored(references, hypotheses, [f"s{at % 12}" for at in range(60)])
    for part, number in (("speakers", 12), ("lengths", 7)):
        rows = found[part]
        assert 5 <= len(rows) <= number
        for name in ("substitutions", "deletions", "insertions", "reference", "errors"):
            assert sum(row[name] for row in rows) == found["words"][name]
        for name in ("sentences", "sentence_errors"):
            assert sum(row[name] for row in rows) == found[name]
    assert [row["name"] for row in found["lengths"]][:2] == ["0-5", "6-10"]
    assert found["intervals"]["drawn"] == "speakers" and found["intervals"]["groups"] == 12
    assert found["intervals"]["wer"][0] < found["wer"] < found["intervals"]["wer"][1]


def test_errors_are_the_smallest_number_of_edits_where_few_words_are_wrong():
    """jiwer lets every edit cost 1; sclite's costs find the same errors unless a sentence is all wrong."""
    generator = random.Random(1)
    references = [[generator.choice("abcdefghijklmnop") for _ in range(12)] for _ in range(200)]
    hypotheses = [
        [w if generator.random() > 0.1 else "x" for w in each if generator.random() > 0.05]
        for each in references
    ]
    theirs = jiwer.process_words([" ".join(r) for r in references], [" ".join(h) for h in hypotheses])
    edits = theirs.substitutions + theirs.deletions + theirs.insertions
    assert total(count(references, hypotheses)).errors == edits > 100
    generator.shuffle(hypotheses)
    worse = jiwer.process_words([" ".join(r) for r in references], [" ".join(h) for h in hypotheses])
    assert (
        total(count(references, hypotheses)).errors
        >= worse.substitutions + worse.deletions + worse.insertions
    )


def test_tokens_are_counted():
    each, found = scored(
        ["abcd ef"], ["abcx ef"], tokenise=lambda text: [text[at : at + 2] for at in range(0, len(text), 2)]
    )
    assert (found["tokens"]["reference"], found["tokens"]["substitutions"], found["ter"]) == (4, 1, 25.0)
    assert each.tokens.tolist() == [[4, 1, 0, 0]]


def test_languages_without_spaces_are_counted_by_character():
    _, found = scored(["東京 タワー", "大学"], ["東京タワー", "大字"])
    assert (found["counted"], found["wer"], found["characters"]["errors"]) == ("char", None, 1)
    assert found["characters"]["reference"] == 7 and found["ser"] == 50.0
    assert scored(["서울 시"], ["서울 시"])[1]["counted"] == "word"  # Korean has spaces
    assert scored(["東京 タワー"], ["東京タワー"], unit="word")[1]["wer"] == 100.0


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisations_are_stable(name):
    """Names have versions, and doing it twice changes nothing."""
    samples = [
        "  A\u00a0b ",
        "Cafe\u0301 l\u2019e\u0301te\u0301",
        "x\u3000y\tz",
        "Don't STOP, well-known (20 %)!",
        "\ufb01ne",
        "",
    ]
    full, function = find(name)
    assert full == name and name.rpartition("-")[2].isdigit() and describe(name).startswith(f"{name}: ")
    once = [function(each) for each in samples]
    assert [function(each) for each in once] == once
    assert all(each == " ".join(each.split()) for each in once)


def test_the_default_changes_white_space_alone():
    assert find("space")[1]("  The\u00a0CAT,  sat ") == "The CAT, sat"
    with pytest.raises(UserError, match="there is no normalisation 'nothing'; there are: lower-1"):
        find("nothing")


def test_other_utterances_are_refused():
    with pytest.raises(UserError, match="hyp: 1 of the 2 utterances of ref are missing: 'b'"):
        text_set({"a": "x", "b": "y"}, {"a": "x"}, FILES)
    with pytest.raises(UserError, match="'a' has no speaker in utt2spk"):
        text_set({"a": "x"}, {"a": "x"}, FILES, {"b": "s"})


def test_utterances_are_read_as_they_were_written(tmp_path):
    each, _ = scored(["a b", "", "שלום"], ["a", "c", "שלום"], ["s", "s", "t"])
    path = tmp_path / utterances.NAME
    path.write_text("".join(f"{line}\n" for line in utterances.lines(each)), encoding="utf-8")
    again = utterances.read(path)
    assert (again.names, again.speakers) == (each.names, each.speakers)
    assert (again.references, again.hypotheses) == (each.references, each.hypotheses)
    assert np.array_equal(again.words, each.words) and again.tokens is None
    path.write_text("nonsense\n")
    with pytest.raises(UserError, match="expected 16 columns"):
        utterances.read(path)
