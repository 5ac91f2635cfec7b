"""Span masks that belong to the utterance: drawn from its own key, from its own number of frames.

Legend: T' encoder frames of an utterance.
"""

import math

import numpy as np

from espnet_ext.train.keys import generator

#: Largest part of an utterance that can be masked: above it spans without overlap need not fit.
LARGEST_RATE = 0.5


def draw_spans(frames: int, rate: float, span: int, key: int) -> list[tuple[int, int]]:
    """Spans [start, stop) without overlap, all placements of them being equally likely.

    The number of spans is rate * T' / span, rounded up or down at random so that exactly rate * T' frames are
    masked on average, whatever the length. In utterances shorter than two spans the span is half the
    utterance, so that something is left to predict from.

    Args:
        frames: T'.
        rate: part of all frames that is masked, in (0, 0.5].
        span: frames in a row that are masked together.
        key: the utterance's random key.
    """
    if frames == 0:
        return []
    draw = generator(key, "span masks")
    span = max(1, min(span, frames // 2))
    count = math.floor(rate * frames / span + draw.random())
    # Spans and single free frames in any order: choose the places of the spans among all of them.
    places = np.sort(draw.choice(frames - count * (span - 1), size=count, replace=False))
    starts = places + np.arange(count) * (span - 1)
    return [(int(start), int(start) + span) for start in starts]
