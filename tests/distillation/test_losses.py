"""Losses of stage 1 against values by hand."""

import numpy as np
import pytest
import torch

from espnet_ext.distillation.losses import Heads, codes_sum, cosine_sum, l1_sum, valid_frames


@pytest.mark.parametrize("extra", [-3, -1, 0, 1, 3])
def test_a_few_frames_more_or_less(extra):
    """Y7: the loss is over the frames that both have; whatever stands behind them is not looked at."""
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 10, 4, generator=draw), torch.randn(2, 13, 4, generator=draw)
    lengths = torch.tensor([10, 7]), torch.tensor([10 + extra, 7 + extra])
    size = min(10, int(lengths[1].max()))
    there = valid_frames(torch.minimum(*lengths), size)
    losses = []
    for junk in (0.0, 1e6):
        padded = target.clone()
        for row in range(2):
            padded[row, int(lengths[1][row]) :] = junk
        losses.append(l1_sum(predicted[:, :size], padded[:, :size], there))
    assert torch.equal(*losses)
    own = [min(10, 10 + extra), min(7, 7 + extra)]
    expected = sum((predicted[r, :n] - target[r, :n]).abs().mean(-1).sum() for r, n in enumerate(own))
    torch.testing.assert_close(losses[0], expected)


def test_perfect_student():
    """Y8: no loss, and a gradient of zero, which is a number."""
    target = torch.randn(2, 5, 4)
    there = torch.ones(2, 5, dtype=torch.bool)
    predicted = target.clone().requires_grad_()
    loss = l1_sum(predicted, target, there) + cosine_sum(predicted, target, there)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-5) and predicted.grad.abs().max() < 1e-5
    other = (target + 1).requires_grad_()
    l1_sum(other, target, there).backward()
    assert (other.grad == 1 / 4).all()


def test_cosine_counts_valid_frames():
    """1 - cos of each frame that is there; 1 where they are at right angles, 2 where they are opposite."""
    predicted = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [-9.0, -9.0]]])
    there = torch.tensor([[True, True, True, False]])
    assert float(cosine_sum(predicted, target, there)) == pytest.approx(3)


def test_codes():
    """Cross-entropy of each codebook: small where the logits say the code, log K where they say nothing."""
    codes = torch.tensor([[[3, 200], [0, 255]]])
    there = torch.tensor([[True, False]])
    assert float(codes_sum(torch.zeros(1, 2, 512), codes, there)) == pytest.approx(np.log(256), rel=1e-5)
    sure = torch.zeros(1, 2, 512)
    sure[0, 0, 3] = sure[0, 0, 256 + 200] = 100.0
    assert float(codes_sum(sure, codes, there)) < 1e-6


def test_heads_do_not_depend_on_each_other():
    alone, both = Heads(8, {"x": 4}, 3), Heads(8, {"y": 5, "x": 4}, 3)
    assert torch.equal(alone["x"].weight, both["x"].weight)
    alike = Heads(8, {"x": 4, "z": 4}, 3)
    assert not torch.equal(alike["x"].weight, alike["z"].weight)
    assert not torch.equal(alone["x"].weight, Heads(8, {"x": 4}, 4)["x"].weight)
