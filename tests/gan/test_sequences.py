"""Transcripts as distributions, and the draws behind them."""

import torch
from espnet.nets.pytorch_backend.transformer.label_smoothing_loss import LabelSmoothingLoss

from espnet_ext.gan.sequences import draw_mix, draw_smoothing, real_sequences


def test_one_hot_where_there_is_a_label():
    sequences = real_sequences(torch.tensor([[2, 0], [1, -1]]), 3)
    assert sequences.tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 0]]]


def test_smoothing_is_espnets():
    """The smoothed sequence is the target that makes ESPnet's label-smoothing loss smallest: zero."""
    targets = torch.tensor([[2, 0, 3], [1, 1, -1]])
    sequences = real_sequences(targets, 5, 0.1)
    assert torch.allclose(sequences.sum(-1), (targets >= 0).float())
    loss = LabelSmoothingLoss(5, -1, 0.1)
    assert abs(loss(sequences.clamp(min=1e-30).log(), targets)) < 1e-6
    assert loss(real_sequences(targets, 5, 0.2).clamp(min=1e-30).log(), targets) > 1e-2


def test_noise_is_drawn_for_every_position_within_its_range():
    amounts = draw_smoothing([11, 12], "0", [400, 300], 0.1, 0.2)
    for row, length in zip(amounts, (400, 300), strict=True):
        drawn = row[:length]
        assert 0.1 <= drawn.min() < 0.11 and 0.29 < drawn.max() < 0.3
        assert abs(drawn.mean() - 0.2) < 0.02
    sequences = real_sequences(torch.zeros(2, 400, dtype=torch.long), 4, amounts)
    assert torch.allclose(sequences[..., 0], 1 - amounts)
    assert torch.allclose(sequences.sum(-1), torch.ones(2, 400))


def test_draws_depend_on_key_and_purpose_alone():
    keys = [101, 202, 303]
    together, alone = draw_mix(keys, "0"), torch.cat([draw_mix([key], "0") for key in keys])
    assert torch.equal(together, alone)
    assert not torch.equal(together, draw_mix(keys, "1"))
    assert ((together >= 0) & (together < 1)).all() and len(set(together.tolist())) == 3
    noise = draw_smoothing(keys, "0", [3, 5, 2], 0.0, 0.5)
    assert torch.equal(noise[1:2], draw_smoothing(keys[1:2], "0", [5], 0.0, 0.5))


def test_drawing_leaves_torchs_generator_alone():
    """G1: dropout's draws must not move."""
    before = torch.random.get_rng_state()
    draw_mix([1, 2], "0")
    draw_smoothing([1, 2], "0", [3, 4], 0.1, 0.1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_mix_is_uniform():
    drawn = draw_mix(range(2000), "0")
    ranked, _ = drawn.sort()
    # Kolmogorov-Smirnov at a level of 1e-6: 2.69 / sqrt(n).
    assert (ranked - (torch.arange(2000) + 0.5) / 2000).abs().max() < 2.69 / 2000**0.5
