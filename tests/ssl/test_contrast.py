"""InfoNCE against its analytic values and against brute force (check B11)."""

import math

import pytest
import torch

from espnet_ext.ssl.contrast import info_nce


def test_identical_views_cost_nothing_at_low_temperature():
    views = torch.eye(6)
    assert info_nce(views, views.clone(), temperature=0.01).abs().max() < 1e-6
    # At temperature 1 the value is -log of e / (e + 5), since the other similarities are 0.
    expected = math.log(math.e + 5) - 1
    torch.testing.assert_close(info_nce(views, views, 1.0), torch.full((6,), expected))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_similarities_cost_log_of_their_number(count):
    predicted = torch.randn(count, 5)
    targets = torch.randn(1, 5).expand(count, 5)
    loss = info_nce(predicted, targets, temperature=0.1)
    torch.testing.assert_close(loss, torch.full((count,), math.log(count)), rtol=1e-5, atol=1e-5)


def test_against_brute_force_with_candidates():
    predicted, targets = torch.randn(5, 4, dtype=torch.double), torch.randn(5, 4, dtype=torch.double)
    candidates = torch.rand(5, 5) < 0.5
    candidates |= torch.eye(5, dtype=torch.bool)
    loss = info_nce(predicted, targets, 0.3, candidates)
    for i in range(5):
        scores = [
            math.exp(float(torch.cosine_similarity(predicted[i], targets[j], dim=0)) / 0.3)
            for j in range(5)
            if candidates[i, j]
        ]
        own = math.exp(float(torch.cosine_similarity(predicted[i], targets[i], dim=0)) / 0.3)
        assert float(loss[i]) == pytest.approx(-math.log(own / sum(scores)), rel=1e-5)


def test_length_of_vectors_does_not_matter():
    predicted, targets = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(info_nce(predicted, targets), info_nce(7 * predicted, targets / 9))


def test_gradient_into_targets_is_what_the_option_says():
    """none: none. positives: only of the similarity with the own prediction. all: of the whole loss."""
    predicted = torch.randn(5, 4, requires_grad=True)
    targets = torch.randn(5, 4, requires_grad=True)
    gradients = {}
    for option in ("none", "positives", "all"):
        loss = info_nce(predicted, targets, 0.5, target_gradient=option).sum()
        wanted = (predicted, targets)
        gradients[option] = torch.autograd.grad(loss, wanted, allow_unused=True)
    assert gradients["none"][1] is None
    # The predictions' gradient never depends on the option.
    for option in ("positives", "all"):
        torch.testing.assert_close(gradients[option][0], gradients["none"][0])

    def parts(of):
        """The loss with the targets' two roles apart: as positives, and as negatives of others."""
        unit = torch.nn.functional.normalize
        as_positive = of if option == "positives" else targets.detach()
        as_negative = targets.detach() if option == "positives" else of
        products = unit(predicted.detach(), dim=-1) @ unit(as_negative, dim=-1).T / 0.5
        own = (unit(predicted.detach(), dim=-1) * unit(as_positive, dim=-1)).sum(-1) / 0.5
        off = products.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
        return (torch.logsumexp(torch.cat([own[:, None], off], dim=1), dim=1) - own).sum()

    option = "positives"
    (positive,) = torch.autograd.grad(parts(targets), targets)
    option = "negatives"
    (negative,) = torch.autograd.grad(parts(targets), targets)
    torch.testing.assert_close(gradients["positives"][1], positive)
    torch.testing.assert_close(gradients["all"][1], positive + negative)
    assert negative.abs().max() > 1e-3
