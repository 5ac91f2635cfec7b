"""Which of a language model's sub-words stand for each of the recogniser's tokens: those of the same
characters.

Recogniser and LM cut a transcript differently, but both know which of its characters a piece covers. A
token's embedding is the mean of the sub-words that it shares characters with, weighted by how many; spaces
do not count.

Legend: U tokens, S sub-words, D size of an embedding.
"""

from collections.abc import Sequence

import numpy as np

from espnet_ext.data.tokens import Tokenizer

#: Characters [start, end) of a transcript.
Span = tuple[int, int]


class SpanTokenizer(Tokenizer):
    """The recogniser's tokens with the characters that they cover."""

    @property
    def characters(self) -> bool:
        """Whether every token is one character."""
        return self._sentencepiece is None

    def spans(self, text: str) -> list[Span]:
        """Characters of each piece of `pieces(text)`. A piece that only marks a word's beginning covers
        the space before it, or nothing; SentencePiece's normalisation (full-width letters, ligatures) is
        followed back to the transcript's own characters.
        """
        if self._sentencepiece is None:
            return [(position, position + 1) for position in range(len(text))]
        pieces = self._sentencepiece.encode(text, out_type="immutable_proto").pieces
        return [(piece.begin, piece.end) for piece in pieces]


def lower_case(text: str) -> tuple[str, list[int]]:
    """The text in lower case, and for each of its characters which one of the original it comes from.

    A character may become two, so that positions do not stay where they were.
    """
    source = [position for position, character in enumerate(text) for _ in character.lower()]
    return text.lower(), source  # of the whole: a Greek sigma at a word's end has a small letter of its own


def back_to_source(spans: Sequence[Span], source: Sequence[int]) -> list[Span]:
    """Spans of a converted text as spans of the original; see `lower_case`."""
    return [(source[a], source[b - 1] + 1) if b > a else (0, 0) for a, b in spans]


def overlap_weights(tokens: Sequence[Span], subwords: Sequence[Span], text: str) -> np.ndarray:
    """How much of each sub-word goes into each token's embedding.

    Args:
        tokens: characters of each token.
        subwords: characters of each sub-word. Several may cover the same character (bytes of one, say).
        text: the transcript.

    Returns:
        (U, S) fp32 weights. A row adds up to 1, or is zero: no sub-word covers the token's characters. A
        token without a character of its own (a space, the mark of a word's beginning) takes the sub-word
        of the next character, which is the word that it announces; at the end of the text there is none.
    """
    weights = np.zeros((len(tokens), len(subwords)), dtype=np.float32)
    if not tokens or not subwords:
        return weights
    solid = np.array([not character.isspace() for character in text], dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(solid)])  # characters in front of each position, spaces left out
    (token_start, token_end), (start, end) = (
        np.array(spans, dtype=np.int64).T for spans in (tokens, subwords)
    )
    silent = before[token_end] == before[token_start]
    following = np.searchsorted(
        before, before[token_end[silent]], side="right"
    )  # just behind the next character
    token_start[silent], token_end[silent] = following - 1, following
    reached = token_end <= len(text)
    token_start, token_end = token_start.clip(max=len(text)), token_end.clip(max=len(text))
    low = np.maximum(token_start[:, None], start)
    high = np.maximum(np.minimum(token_end[:, None], end), low)
    weights[:] = (before[high] - before[low]) * reached[:, None]
    total = weights.sum(1, keepdims=True)
    return np.divide(weights, total, out=weights, where=total > 0)


def windows(length: int, size: int) -> list[tuple[int, int, int, int]]:
    """Cover a sequence that is longer than what an LM reads at once.

    Windows overlap by half; a sub-word's embedding is taken from the window in which it stands farthest
    from an edge, so that it has context on both sides.

    Args:
        length: number of sub-words.
        size: how many the LM reads at once.

    Returns:
        (start, end, first, last) of each window: it reads [start, end) and gives the embeddings of [first,
        last).
    """
    if length <= size:
        return [(0, length, 0, length)]
    step = max(1, size // 2)
    starts = [*range(0, length - size, step), length - size]
    cuts = [0, *((b + a + size) // 2 for a, b in zip(starts, starts[1:], strict=False)), length]
    return [(a, a + size, cuts[i], cuts[i + 1]) for i, a in enumerate(starts)]
