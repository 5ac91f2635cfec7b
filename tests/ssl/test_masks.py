"""Span masks: keyed, without overlap, with exactly the rate that was asked for on average."""

from collections import Counter
from itertools import combinations

import pytest

from espnet_ext.ssl.masks import draw_spans


def masked(spans) -> list[int]:
    return [frame for start, stop in spans for frame in range(start, stop)]


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 19, 20, 57, 200])
@pytest.mark.parametrize("rate", [0.1, 0.35, 0.5])
def test_spans_fit_and_do_not_overlap(frames, rate):
    for key in range(50):
        spans = draw_spans(frames, rate, 10, key)
        inside = masked(spans)
        assert len(inside) == len(set(inside)) and all(0 <= frame < frames for frame in inside)
        length = max(1, min(10, frames // 2))
        assert all(stop - start == length for start, stop in spans)


@pytest.mark.parametrize("frames", [5, 23, 80])
def test_the_rate_is_exact_on_average(frames):
    """The number of masked frames is rate * T' rounded to whole spans, up as often as the rest demands."""
    span = max(1, min(10, frames // 2))
    counts = Counter(len(draw_spans(frames, 0.35, 10, key)) for key in range(4000))
    low = int(0.35 * frames / span)
    assert set(counts) <= {low, low + 1}
    mean = sum(count * times for count, times in counts.items()) * span / 4000
    # Five standard deviations of a mean of 4000 draws, each of which is off by at most one span.
    assert abs(mean - 0.35 * frames) < 5 * 0.5 * span / 4000**0.5


def test_all_placements_are_equally_likely():
    """Two spans of 2 in 6 frames: every way to lay them, found by trying all, about as often."""
    ways = [(a, b) for a, b in combinations(range(5), 2) if b - a >= 2]
    draws = [draw_spans(6, 0.5, 2, key) for key in range(6000)]
    counts = Counter(tuple(start for start, _ in spans) for spans in draws if len(spans) == 2)
    total = sum(counts.values())
    assert total > 2000 and set(counts) == set(ways)
    for way in ways:
        assert abs(counts[way] / total - 1 / len(ways)) < 5 * (len(ways) * total) ** -0.5


def test_a_key_is_a_mask():
    assert draw_spans(100, 0.4, 10, 3) == draw_spans(100, 0.4, 10, 3)
    assert len({tuple(draw_spans(100, 0.4, 10, key)) for key in range(20)}) > 15
    assert draw_spans(0, 0.4, 10, 3) == []
