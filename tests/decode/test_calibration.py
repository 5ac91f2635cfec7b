"""Calibration figures against values that can be worked out by hand."""

import pytest
import torch

from espnet_ext.decode.calibration import Calibration


def scores_for(posterior: float, best: int, tokens: int = 5) -> torch.Tensor:
    """Scores (V,) whose softmax is ``posterior`` at ``best`` and even elsewhere."""
    p = torch.full((tokens,), (1 - posterior) / (tokens - 1), dtype=torch.float64)
    p[best] = posterior
    return p.log()


def test_expected_calibration_error_by_hand():
    # Ten bins. In (0.8, 0.9]: two positions of 0.85, one right; in (0.5, 0.6]: 0.55 and 0.6, both right.
    rows = [scores_for(0.85, 0), scores_for(0.85, 1), scores_for(0.55, 2), scores_for(0.6, 3)]
    scores = torch.stack([*rows, torch.full((5,), torch.nan, dtype=torch.float64)])[None]
    targets = torch.tensor([[0, 2, 2, 3, -1]])
    calibration = Calibration(bins=10)
    calibration.add(scores, targets)
    assert calibration.positions == 4
    figures = calibration.figures()
    assert figures["accuracy"] == 3 / 4
    assert figures["max_posterior"] == pytest.approx((0.85 + 0.85 + 0.55 + 0.6) / 4)
    assert figures["ece"] == pytest.approx(2 / 4 * abs(0.5 - 0.85) + 2 / 4 * abs(1 - 0.575))


def test_one_bin_is_the_distance_of_confidence_and_accuracy():
    calibration = Calibration(bins=1)
    calibration.add(torch.stack([scores_for(0.9, 0), scores_for(0.7, 0)])[None], torch.tensor([[0, 1]]))
    assert calibration.figures()["ece"] == pytest.approx(0.8 - 0.5)


def test_perfectly_calibrated_posteriors():
    # Labels drawn from the posteriors themselves: the error falls with the square root of their number.
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 40000, 4, generator=draw)
    labels = torch.multinomial(torch.softmax(scores[0], -1), 1, generator=draw)[:, 0][None]
    true, bold = Calibration(), Calibration()
    true.add(scores, labels)
    bold.add(scores * 3, labels)
    assert true.figures()["ece"] < 0.02
    over = bold.figures()
    assert over["ece"] == pytest.approx(
        over["max_posterior"] - over["accuracy"], abs=1e-9
    )  # over-confident everywhere
    assert over["ece"] > 0.15


def test_parts_add_up_and_the_shift_of_scores_does_not_count():
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(6, 9, 4, generator=draw)
    targets = torch.randint(-1, 4, (6, 9), generator=draw)
    whole, first, second = Calibration(), Calibration(), Calibration()
    whole.add(scores, targets)
    first.add(scores[:2] + 3, targets[:2])
    second.add(scores[2:], targets[2:])
    first.merge(second)
    assert first.figures() == pytest.approx(whole.figures(), abs=1e-6)
    with pytest.raises(ValueError, match="15 and 10 bins"):
        whole.merge(Calibration(10))


def test_edges_of_the_bins():
    calibration = Calibration(bins=4)
    certain = torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf], dtype=torch.float64)
    calibration.add(torch.stack([torch.zeros(4, dtype=torch.float64), certain])[None], torch.tensor([[0, 0]]))
    assert calibration.sums[0].tolist() == [1, 0, 0, 1]  # 1/4 belongs to (0, 1/4], 1 to (3/4, 1]


def test_nothing_to_count():
    with pytest.raises(ValueError, match="no label"):
        Calibration().figures()
