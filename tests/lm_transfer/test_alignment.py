"""Tokens of the recogniser and sub-words of a language model meet at their characters."""

import io

import numpy as np
import pytest

from espnet_ext.lm_transfer.alignment import (
    SpanTokenizer,
    back_to_source,
    lower_case,
    overlap_weights,
    windows,
)


def spans_of(pieces: list[str], text: str) -> list[tuple[int, int]]:
    """Where pieces stand that follow each other in the text."""
    spans, position = [], 0
    for piece in pieces:
        start = text.index(piece, position)
        spans.append((start, start + len(piece)))
        position = start + len(piece)
    return spans


@pytest.mark.parametrize(
    "text, tokens, subwords, expected",
    [
        # the same cut, and a word in pieces on either side
        ("THE CAT", ["THE", " CAT"], ["THE", "CAT"], [[1, 0], [0, 1]]),
        ("UNABLE", ["UN", "ABLE"], ["UNABLE"], [[1], [1]]),
        ("UNABLE", ["UNABLE"], ["UNA", "BLE"], [[0.5, 0.5]]),
        # cuts that cross: a token takes three characters of one sub-word and one of the next
        ("ABCDEF", ["ABCD", "EF"], ["ABC", "DEF"], [[0.75, 0.25], [0, 1]]),
        # a token over two words; the space between them does not count
        ("AN A", ["AN A"], ["AN", "A"], [[2 / 3, 1 / 3]]),
        ("AN A", ["AN A"], ["AN", " A"], [[2 / 3, 1 / 3]]),  # nor where an LM has it in a sub-word
        # apostrophes, digits, letters of other scripts
        ("IT'S 42", ["IT", "'S", " 4", "2"], ["IT", "'", "S", "42"], None),
        ("学校 Ångström", ["学", "校", " Ång", "ström"], ["学校", "Ångs", "tröm"], None),
    ],
)
def test_weights(text, tokens, subwords, expected):
    weights = overlap_weights(spans_of(tokens, text), spans_of(subwords, text), text)
    if expected is None:  # from the definition, character by character
        expected = []
        for a, b in spans_of(tokens, text):
            counts = [
                sum(c <= i < d for i in range(a, b) if not text[i].isspace())
                for c, d in spans_of(subwords, text)
            ]
            expected.append([count / sum(counts) for count in counts])
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_a_token_without_characters_announces_the_next_word():
    text = "GO  ON "
    tokens = [(0, 0), (0, 2), (2, 3), (3, 4), (4, 6), (6, 7)]  # "", GO, " ", " ", ON, " "
    weights = overlap_weights(tokens, [(0, 2), (4, 6)], text)
    np.testing.assert_array_equal(weights, [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 0]])


def test_characters_that_the_lm_dropped_have_no_target():
    weights = overlap_weights([(0, 1), (1, 2), (2, 3)], [(0, 1), (2, 3)], "a\u200bb")
    np.testing.assert_array_equal(weights, [[1, 0], [0, 0], [0, 1]])


def test_bytes_of_one_character_count_once():
    """A byte-level LM gives several sub-words to one character: their mean, not their sum."""
    weights = overlap_weights([(0, 1), (1, 2)], [(0, 1), (0, 1), (0, 1), (1, 2)], "学a")
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1]], atol=1e-6)


def test_nothing_to_align():
    assert overlap_weights([], [(0, 1)], "a").shape == (0, 1)
    assert overlap_weights([(0, 1)], [], "a").shape == (1, 0)
    assert not overlap_weights([(0, 1)], [(0, 0)], " ").any()


def test_lower_case_keeps_track_of_positions():
    """Some capitals become two characters: what follows them is not shifted."""
    text = "İS ẞA"
    lowered, source = lower_case(text)
    assert lowered == text.lower() and len(lowered) == len(text) + 1
    spans = back_to_source(spans_of(lowered.split(), lowered), source)
    assert [text[a:b] for a, b in spans] == ["İS", "ẞA"]
    assert back_to_source([(0, 0)], source) == [(0, 0)]


def test_lower_case_of_a_greek_word_ends_in_its_own_sigma():
    """What the LM reads is Python's small letters of the whole text, not of each character."""
    text = "ΟΔΟΣ ΣΟΦΟΣ"
    assert lower_case(text) == (text.lower(), list(range(10))) and lower_case(text)[0] == "οδος σοφος"


def test_characters_as_tokens(tmp_path):
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n<space>\na\nb\n<sos/eos>\n")
    tokenizer = SpanTokenizer(tmp_path / "tokens.txt", "char")
    assert tokenizer.spans("a b学") == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_sentencepiece_tokens(tmp_path):
    """Spans point at the transcript's own characters, also where SentencePiece has rewritten them."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the fine cat", "the hat of the cat", "a fine thing"] * 5),
        model_writer=model,
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "bpe.model").write_bytes(model.getvalue())
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n▁\na\n<sos/eos>\n")
    tokenizer = SpanTokenizer(tmp_path / "tokens.txt", "unigram", tmp_path / "bpe.model")
    text = "the  ﬁne ＣＡＴ 中文"
    pieces, spans = tokenizer.pieces(text), tokenizer.spans(text)
    assert len(pieces) == len(spans)
    assert all(a <= b for a, b in spans) and spans[-1][1] == len(text)
    covered = "".join(text[a:b] for a, b in spans)
    assert covered == text  # every character in one token, in order
    words = [(0, 3), (5, 8), (9, 12), (13, 15)]
    weights = overlap_weights(spans, words, text)
    assert weights.sum(1).tolist() == [1.0] * len(pieces)
    for piece, row in zip(pieces, weights, strict=True):
        if "中" in piece:
            assert row.argmax() == 3


@pytest.mark.parametrize("length, size", [(5, 8), (8, 8), (9, 8), (40, 8), (41, 7), (10, 1), (23, 2)])
def test_windows_cover_everything_once(length, size):
    found = windows(length, size)
    assert all(end - start <= size for start, end, _, _ in found)
    starts = [start for start, *_ in found]
    assert all(b - a <= max(1, size // 2) for a, b in zip(starts, starts[1:], strict=False))  # half overlaps
    given = [i for start, end, first, last in found for i in range(first, last) if start <= i < end]
    assert given == list(range(length))
    for start, end, first, last in found:
        for i in range(first, last):  # no other window would have given it more context
            room = min(i - start if start else length, end - 1 - i if end < length else length)
            others = [
                min(i - a if a else length, b - 1 - i if b < length else length)
                for a, b, _, _ in found
                if a <= i < b
            ]
            assert room >= max(others) - 1
