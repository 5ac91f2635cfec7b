"""The Wasserstein loss and its penalty against analytic values and finite differences."""

import pytest
import torch

from espnet_ext.gan.critic import Critic
from espnet_ext.gan.losses import adversarial_loss, critic_terms, interpolate, slopes


@pytest.fixture
def linear():
    """Weights w (7, 5), and the critic D(y) = <w, y>."""
    w = torch.randn(7, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    return w, lambda sequences, lengths: (sequences * w).sum((1, 2))


def score_of(critic, pairs):
    """The critic with the statistics of both sides, as in training."""
    real, fake, lengths = pairs
    _, statistics = critic(torch.cat([real, fake]), torch.cat([lengths, lengths]))
    return lambda sequences, lengths: critic(sequences, lengths, statistics)[0]


MIX = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def test_penalty_of_a_linear_critic(linear, pairs):
    """G4: the slope is the norm of all of w together, not a norm per token or per position."""
    w, score = linear
    terms = critic_terms(score, *pairs, MIX)
    norm = w.detach().norm()
    assert torch.allclose(terms.slope, norm.expand(3), rtol=1e-14)
    assert torch.allclose(terms.penalty, (norm - 1).square().expand(3), rtol=1e-14)
    (gradient,) = torch.autograd.grad(terms.penalty.mean(), w)
    assert torch.allclose(gradient, 2 * (norm - 1) * w.detach() / norm, rtol=1e-12)


def test_penalty_gradient_by_finite_differences(critic, pairs):
    """G4: every parameter of the critic, through the gradient inside the penalty and BatchNorm."""
    terms = lambda: critic_terms(score_of(critic, pairs), *pairs, MIX)  # noqa: E731
    parameters = dict(critic.named_parameters())
    gradients = torch.autograd.grad(terms().loss(0.7, 10.0, 3), parameters.values(), materialize_grads=True)
    step = 1e-6
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        flat = parameter.data.view(-1)
        for index in range(0, flat.numel(), max(1, flat.numel() // 7)):
            value = flat[index].item()
            losses = []
            for side in (step, -step):
                flat[index] = value + side
                losses.append(terms().loss(0.7, 10.0, 3).item())
            flat[index] = value
            expected = (losses[0] - losses[1]) / (2 * step)
            assert gradient.reshape(-1)[index].item() == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_slope_by_finite_differences(critic, pairs):
    """The slope is the steepest ascent over the whole sequence, brute force over every number in it."""
    _, fake, lengths = pairs
    score = score_of(critic, pairs)
    expected = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for position in range(7):
            for token in range(5):
                move = torch.zeros_like(fake)
                move[:, position, token] = 1e-6
                difference = (score(fake + move, lengths) - score(fake - move, lengths)) / 2e-6
                expected += difference.square()
    assert torch.allclose(slopes(score, fake, lengths), expected.sqrt(), rtol=1e-6)


@pytest.mark.parametrize("mix, side", [(0.0, 1), (1.0, 0)], ids=["fake", "real"])
def test_penalty_at_the_ends(critic, pairs, mix, side):
    """G5: a weight of 0 is the fake sequence, of 1 the real one."""
    score = score_of(critic, pairs)
    terms = critic_terms(score, *pairs, torch.full((3,), mix, dtype=torch.float64))
    assert torch.equal(terms.slope, slopes(score, pairs[side], pairs[2]))


def test_one_weight_a_pair(pairs):
    real, fake, _ = pairs
    points = interpolate(real, fake, MIX)
    for row, weight in enumerate(MIX):
        assert torch.allclose(points[row], weight * real[row] + (1 - weight) * fake[row], atol=1e-15)


def test_padding_changes_no_penalty(critic, pairs):
    """G7."""
    real, fake, lengths = pairs
    before = critic_terms(score_of(critic, pairs), *pairs, MIX)
    padded = [torch.cat([s, torch.zeros(3, 6, 5, dtype=s.dtype)], 1) for s in (real, fake)]
    after = critic_terms(score_of(critic, (*padded, lengths)), *padded, lengths, MIX)
    for name in ("real", "fake", "penalty", "distance"):
        assert torch.allclose(getattr(before, name), getattr(after, name), rtol=1e-10, atol=1e-13), name


def test_signs(critic, pairs):
    """G8: the critic wants real above fake; swapping them flips the sign; the recogniser wants fake high."""
    real, fake, lengths = pairs
    score = score_of(critic, pairs)
    terms = critic_terms(score, real, fake, lengths, MIX)
    swapped = critic_terms(score, fake, real, lengths, 1 - MIX)
    wasserstein = terms.loss(2.0, 0.0, 3)
    assert torch.allclose(wasserstein, 2 * (score(fake, lengths) - score(real, lengths)).mean())
    assert wasserstein.abs() > 1e-3
    assert torch.allclose(swapped.loss(2.0, 0.0, 3), -wasserstein)
    assert torch.allclose(swapped.loss(0.0, 5.0, 3), terms.loss(0.0, 5.0, 3))
    assert torch.allclose(terms.loss(0.0, 5.0, 3), 5 * terms.penalty.mean())
    assert torch.allclose(adversarial_loss(terms.fake, 0.5, 3), -0.5 * terms.fake.mean())


def test_shares_of_micro_batches_add_up(pairs):
    real, fake, lengths = pairs
    torch.manual_seed(0)
    critic = Critic(5, 6, [2, 2], norm="layer").double()
    score = lambda sequences, lengths: critic(sequences, lengths)[0]  # noqa: E731
    whole = critic_terms(score, real, fake, lengths, MIX).loss(0.3, 10, 3)
    parts = sum(
        critic_terms(score, real[s], fake[s], lengths[s], MIX[s]).loss(0.3, 10, 3)
        for s in (slice(0, 2), slice(2, 3))
    )
    assert torch.allclose(parts, whole, rtol=1e-12)


def test_gap_is_at_most_the_distance_for_a_slope_of_one(linear, pairs):
    """Along the straight line between a pair, a linear critic with ‖w‖ = 1 gains at most their distance."""
    w, score = linear
    real, fake, lengths = pairs
    direction = real[0] - fake[0]
    w.data = direction / direction.norm()
    terms = critic_terms(score, real, fake, lengths, MIX)
    assert torch.allclose(terms.real[0] - terms.fake[0], terms.distance[0], rtol=1e-12)
    assert (terms.real - terms.fake <= terms.distance + 1e-12).all()


def test_pairs_that_are_left_out(critic, pairs):
    real, fake, lengths = pairs
    some = lengths * torch.tensor([1, 0, 1])
    terms = critic_terms(score_of(critic, (real, fake, some)), real, fake, some, MIX)
    few = (real[::2], fake[::2], lengths[::2])
    expected = critic_terms(score_of(critic, few), *few, MIX[::2])
    for name, value in vars(terms).items():
        assert value[1] == 0, name
        assert torch.allclose(value[::2], getattr(expected, name), rtol=1e-10, atol=1e-13), name


def test_a_flat_critic_has_a_penalty_and_no_nan(pairs):
    critic = Critic(5, 4, [2, 2], norm="none", activation="relu").double()
    for parameter in critic.parameters():
        torch.nn.init.constant_(parameter, -0.1)  # every ReLU is shut
    terms = critic_terms(lambda s, n: critic(s, n)[0], *pairs, MIX)
    assert terms.penalty.tolist() == [1.0, 1.0, 1.0]
    gradients = torch.autograd.grad(terms.loss(1.0, 10.0, 3), list(critic.parameters()), allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
