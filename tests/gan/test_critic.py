"""The critic computes the figure of the paper, and reads nothing but the sequence it scores."""

import pytest
import torch
from torch.nn import functional as F

from espnet_ext.errors import UserError
from espnet_ext.gan.batch_norm import MaskedBatchNorm
from espnet_ext.gan.critic import Critic


def test_parameters_of_the_paper():
    critic = Critic(5000, 128, [2, 2], norm="batch", activation="none")
    assert sum(parameter.numel() for parameter in critic.parameters()) == 706_305


def test_score_by_hand(pairs):
    """One position, one window and one channel at a time."""
    torch.manual_seed(0)
    critic = Critic(5, 4, [2, 3], norm="layer", activation="relu").double()
    _, fake, lengths = pairs
    scores, _ = critic(fake, lengths)
    first, second = critic.convolutions
    norm = critic.norms[0]
    for row, length in enumerate(lengths.tolist()):
        hidden = [critic.project.weight @ fake[row, at] + critic.project.bias for at in range(length)]
        windows = []
        for at in range(length - 1):
            out = first.bias + first.weight[:, :, 0] @ hidden[at] + first.weight[:, :, 1] @ hidden[at + 1]
            out = (out - out.mean()) / (out.var(unbiased=False) + norm.eps).sqrt()
            windows.append((out * norm.weight + norm.bias).clamp(min=0))
        ends = []
        for at in range(length - 3):
            out = second.bias + sum(second.weight[:, :, k] @ windows[at + k] for k in range(3))
            ends.append(out.clamp(min=0))
        expected = critic.score.weight[0] @ (sum(ends) / len(ends)) + critic.score.bias[0]
        assert torch.allclose(scores[row], expected, rtol=1e-12, atol=0)


def test_no_activation_is_affine(pairs):
    """With the paper's critic and given statistics the score of a mixture is the mixture of scores."""
    torch.manual_seed(0)
    real, fake, lengths = pairs
    for activation, affine in (("none", True), ("relu", False), ("leaky_relu", False), ("gelu", False)):
        critic = Critic(5, 6, [2, 2], norm="batch", activation=activation).double()
        _, statistics = critic(torch.cat([real, fake]), torch.cat([lengths, lengths]))
        one, other, middle = (
            critic(points, lengths, statistics)[0] for points in (real, fake, 0.3 * real + 0.7 * fake)
        )
        assert torch.allclose(middle, 0.3 * one + 0.7 * other, rtol=1e-10, atol=1e-12) == affine


def test_a_sequence_does_not_see_the_others(critic, pairs):
    """G6: replacing one sample moves the others only through BatchNorm's own statistics."""
    real, fake, lengths = pairs
    coupled = isinstance(critic.norms[0], MaskedBatchNorm)
    before, statistics = critic(fake, lengths)
    after, _ = critic(torch.cat([real[:1], fake[1:]]), lengths)
    moved = (after - before).abs()
    assert moved[0] > 1e-3
    assert moved[1:].max() > 1e-3 if coupled else torch.equal(after[1:], before[1:])
    given, _ = critic(torch.cat([real[:1], fake[1:]]), lengths, statistics)
    assert torch.equal(given[1:], before[1:])


@pytest.mark.parametrize("garbage", [0.0, 7.0, float("nan"), float("inf")])
def test_padding_is_not_read(critic, pairs, garbage):
    """G7: scores are those of the sequences without padding, and send nothing to it."""
    _, fake, lengths = pairs
    before, statistics = critic(fake, lengths)
    longer = torch.cat([fake, torch.zeros(3, 4, 5, dtype=fake.dtype)], 1)
    padding = torch.arange(11)[None] >= lengths[:, None]
    longer = longer.masked_fill(padding[..., None], garbage).requires_grad_()
    after, longer_statistics = critic(longer, lengths)
    assert torch.allclose(after, before, rtol=1e-12, atol=1e-14)
    for one, other in zip(statistics, longer_statistics, strict=True):
        assert torch.allclose(one.mean, other.mean, rtol=1e-12)
        assert torch.allclose(one.variance, other.variance, rtol=1e-12)
    after.sum().backward()
    assert longer.grad[padding].eq(0).all()
    assert longer.grad[~padding].abs().min() > 0
    for row, length in enumerate(lengths.tolist()):
        alone, _ = critic(fake[row : row + 1, :length], lengths[row : row + 1], statistics)
        assert torch.allclose(alone, before[row : row + 1], rtol=1e-12, atol=1e-14)


def test_batch_norm_is_torchs_without_padding():
    torch.manual_seed(0)
    values = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    ours, theirs = MaskedBatchNorm(3).double(), torch.nn.BatchNorm1d(3).double()
    for name in ("weight", "bias"):
        value = torch.randn(3, dtype=torch.float64)
        getattr(ours, name).data = value.clone()
        getattr(theirs, name).data = value.clone()
    out, _ = ours(values, torch.ones(4, 6, dtype=torch.bool))
    expected = theirs(values.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-13)
    weights = torch.randn_like(out)
    (one,) = torch.autograd.grad((out * weights).sum(), values)
    (other,) = torch.autograd.grad((expected * weights).sum(), values)
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-13)


def test_batch_norm_of_a_padded_batch_is_that_of_its_positions():
    torch.manual_seed(0)
    values, valid = torch.randn(3, 5, 2), torch.arange(5)[None] < torch.tensor([[5], [3], [1]])
    out, statistics = MaskedBatchNorm(2)(values, valid)
    there = values[valid]  # (9, 2)
    assert torch.allclose(statistics.mean, there.mean(0), atol=1e-6)
    assert torch.allclose(statistics.variance, there.var(0, unbiased=False), atol=1e-6)
    assert torch.allclose(out[valid], F.batch_norm(there, None, None, training=True), atol=1e-5)


def test_too_short_for_the_kernels():
    critic = Critic(5, 4, [2, 3])
    assert critic.reach == 4
    sequences = torch.rand(2, 4, 5)
    critic(sequences, torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="3 positions; the critic needs 4"):
        critic(sequences, torch.tensor([4, 3]))


def test_a_sequence_that_is_left_out(critic, pairs):
    """Length 0: it scores 0 and does not enter BatchNorm's statistics."""
    _, fake, lengths = pairs
    scores, _ = critic(fake, torch.tensor([7, 0, 4]))
    expected, _ = critic(fake[::2], lengths[::2])
    assert scores[1] == 0
    assert torch.allclose(scores[::2], expected, rtol=1e-12, atol=1e-14)
    for sequences in (fake, fake[:, :2]):
        scores, _ = critic(sequences, torch.zeros(3, dtype=torch.long))
        assert scores.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "options",
    [{"width": 0}, {"width": 1.5}, {"kernel_sizes": []}, {"kernel_sizes": [2, 0]}, {"kernel_sizes": 2}]
    + [{"norm": "group"}, {"activation": "tanh"}],
    ids=str,
)
def test_bad_options(options):
    (name,) = options
    with pytest.raises(UserError, match=f"critic_conf: {name}: expected"):
        Critic(5, **options)
