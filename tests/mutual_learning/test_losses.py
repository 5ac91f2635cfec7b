"""The mutual term: equal to brute force, no gradient to peers, and its meaning as a label smoothing."""

import math

import pytest
import torch
from espnet.nets.pytorch_backend.transformer.label_smoothing_loss import LabelSmoothingLoss

from espnet_ext.asr.ramp import Ramp
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.losses import check_weight, mixed, mutual_sum, posteriors

B, U, V = 3, 5, 7
LENGTHS = torch.tensor([5, 3, 1])
KEEP = torch.arange(U) < LENGTHS[:, None]


def scores_of(number: int) -> torch.Tensor:
    """Random scores (B, U, V) in double precision."""
    draw = torch.Generator().manual_seed(number)
    return torch.randn(B, U, V, generator=draw, dtype=torch.float64) * 2


def gradient_of(loss: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, scores)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
def test_equals_brute_force(form, temperature):
    mine, others = scores_of(0), [scores_of(1), scores_of(2)]
    expected = 0.0
    for b in range(B):
        for u in range(int(LENGTHS[b])):
            for other in others:
                p = [math.exp(value / temperature) for value in mine[b, u].tolist()]
                q = [math.exp(value / temperature) for value in other[b, u].tolist()]
                p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
                for mine_v, other_v in zip(p, q, strict=True):
                    against = other_v if form == "kl" else 1.0
                    expected += -other_v * math.log(mine_v / against) / len(others)
    result = mutual_sum(mine, [posteriors(o, temperature) for o in others], KEEP, temperature, form)
    assert result.item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_no_gradient_reaches_a_peer():  # M3
    mine, other = scores_of(0).requires_grad_(), scores_of(1).requires_grad_()
    own = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    graph = torch.softmax(other * own, -1)  # a target that nobody has detached
    for targets in ([posteriors(other)], [graph], [posteriors(other), graph]):
        loss = mutual_sum(mine, targets, KEEP)
        gradients = torch.autograd.grad(loss, [mine, other, own], allow_unused=True)
        assert gradients[0].abs().sum() > 0
        assert gradients[1] is None and gradients[2] is None


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_forms_have_the_same_gradient(temperature):  # M4
    mine = scores_of(0).requires_grad_()
    targets = [posteriors(scores_of(number), temperature) for number in (1, 2)]
    both = [mutual_sum(mine, targets, KEEP, temperature, form) for form in ("cross_entropy", "kl")]
    one, other = (gradient_of(loss, mine) for loss in both)
    assert (one - other).abs().max() <= 1e-12
    assert both[0] - both[1] > 1  # they are not the same loss
    with torch.no_grad():
        shift = torch.zeros_like(mine)
        shift[0, 1, 2] = 1e-5
        finite = (
            mutual_sum(mine + shift, targets, KEEP, temperature)
            - mutual_sum(mine - shift, targets, KEEP, temperature)
        ) / 2e-5
    assert finite.item() == pytest.approx(one[0, 1, 2].item(), rel=1e-6)


def test_identical_peers_have_nothing_to_learn_from_each_other():  # M5
    mine = scores_of(0).requires_grad_()
    loss = mutual_sum(mine, [posteriors(mine), posteriors(mine)], KEEP, form="kl")
    assert abs(loss.item()) <= 1e-14
    assert gradient_of(loss, mine).abs().max() <= 1e-15


def test_shifted_scores_padding_and_split_batches_change_nothing():  # M8
    mine, other = scores_of(0), scores_of(1)
    expected = mutual_sum(mine, [posteriors(other)], KEEP)
    shift = torch.randn(B, U, 1, dtype=torch.float64)
    torch.testing.assert_close(mutual_sum(mine + shift, [posteriors(other - 2 * shift)], KEEP), expected)
    garbage = torch.full((B, 2, V), torch.nan, dtype=torch.float64)
    longer, keep = (torch.cat([x, garbage], 1) for x in (mine, other)), torch.nn.functional.pad(KEEP, (0, 2))
    padded = [x.requires_grad_() for x in longer]
    loss = mutual_sum(padded[0], [posteriors(padded[1])], keep)
    torch.testing.assert_close(loss, expected)
    parts = [
        mutual_sum(mine[rows, :longest], [posteriors(other[rows, :longest])], KEEP[rows, :longest])
        for rows, longest in ((slice(0, 1), 5), (slice(1, 3), 3))
    ]
    torch.testing.assert_close(sum(parts), expected)


@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_uniform_peer_is_label_smoothing(weight):  # M9
    mine = scores_of(0).requires_grad_()
    labels = torch.randint(0, V, (B, U)).masked_fill(~KEEP, -1)
    hard = LabelSmoothingLoss(V, -1, smoothing=0.0)(mine, labels) * B
    uniform = torch.full((B, U, V), 1 / V, dtype=torch.float64)
    ours = gradient_of(mixed(hard, mutual_sum(mine, [uniform], KEEP), weight, full_hard=False), mine)
    # ESPnet spreads the mass over the V - 1 wrong tokens, a uniform posterior over all V of them.
    smoothed = LabelSmoothingLoss(V, -1, smoothing=weight * (V - 1) / V)(mine, labels) * B
    assert (ours - gradient_of(smoothed, mine)).abs().max() <= 1e-12


def test_peer_that_knows_the_transcript_is_the_hard_term():  # M10
    mine = scores_of(0)
    labels = torch.randint(0, V, (B, U)).masked_fill(~KEEP, -1)
    truth = torch.nn.functional.one_hot(labels.clamp_min(0), V).double()
    hard = LabelSmoothingLoss(V, -1, smoothing=0.0)(mine, labels) * B
    for form in ("cross_entropy", "kl"):  # a one-hot distribution has no entropy
        torch.testing.assert_close(mutual_sum(mine, [truth], KEEP, form=form), hard)


def test_optimum_is_the_mixture_of_transcript_and_peers():  # M12
    weight, labels = 0.4, torch.tensor([[0, 3, 6]])
    keep = torch.ones(1, 3, dtype=torch.bool)
    target = posteriors(scores_of(5)[:1, :3])
    mine = torch.zeros(1, 3, V, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([mine], lr=1.0, max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        hard = torch.nn.functional.cross_entropy(mine[0], labels[0], reduction="sum")
        loss = mixed(hard, mutual_sum(mine, [target], keep), weight, full_hard=False)
        loss.backward()
        return loss

    optimizer.step(closure)
    truth = torch.nn.functional.one_hot(labels, V)
    expected = (1 - weight) * truth + weight * target
    assert (torch.softmax(mine.detach(), -1) - expected).abs().max() <= 1e-6


def test_size_of_the_gradient_survives_the_temperature():
    # Hinton et al. 2015: for high temperatures and centred scores τ² times the gradient is (z - z') / V.
    mine, other = scores_of(0).requires_grad_(), scores_of(1)
    centred = (mine - mine.mean(-1, keepdim=True)) - (other - other.mean(-1, keepdim=True))
    gradient = gradient_of(mutual_sum(mine, [posteriors(other, 1e4)], KEEP, 1e4), mine)
    expected = (centred / V).detach() * KEEP[..., None]
    assert (gradient - expected).abs().max() <= 1e-3


def test_half_precision_scores_are_computed_in_single_precision():
    mine, other = scores_of(0).bfloat16(), scores_of(1).bfloat16()
    assert posteriors(other).dtype == torch.float32
    loss = mutual_sum(mine, [posteriors(other)], KEEP)
    exact = mutual_sum(mine.double(), [posteriors(other.double())], KEEP)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_weights_of_the_two_terms():
    hard, mutual = torch.tensor(3.0), torch.tensor(5.0)
    assert mixed(hard, mutual, 0.25, full_hard=False).item() == 0.75 * 3 + 0.25 * 5
    assert mixed(hard, mutual, 0.25, full_hard=True).item() == 3 + 0.25 * 5
    assert (
        mixed(hard, None, 0.25, full_hard=False) is hard
    )  # without a peer the transcript has all the weight


@pytest.mark.parametrize(
    ("weight", "full_hard"), [(1.0, False), (-0.1, False), (1.5, False), (-0.1, True), (1.1, True)]
)
def test_weight_out_of_range(weight, full_hard):
    with pytest.raises(UserError, match=rf"weight {weight}: expected a number in \[0, 1"):
        check_weight(weight, full_hard)
    check_weight(0.0, full_hard)
    check_weight(0.999, full_hard)


def test_no_peer_and_unknown_form():
    with pytest.raises(ValueError, match="at least one peer"):
        mutual_sum(scores_of(0), [], KEEP)
    with pytest.raises(ValueError, match="expected one of cross_entropy, kl"):
        mutual_sum(scores_of(0), [posteriors(scores_of(1))], KEEP, form="mse")


def test_ramp():
    ramp = Ramp(0.5, start=10, steps=4)
    assert [ramp(step) for step in (0, 9, 10, 11, 12, 14, 1000)] == [0, 0, 0, 0.125, 0.25, 0.5, 0.5]
    assert [Ramp(0.5)(step) for step in (0, 1)] == [0.5, 0.5]
    assert [Ramp(0.5, start=1)(step) for step in (0, 1)] == [0, 0.5]
    with pytest.raises(UserError, match="from 0 on, got 0 and -1"):
        Ramp(0.5, steps=-1)
