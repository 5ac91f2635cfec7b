"""Gradient scale, γ and the penalty's mathematics on problems whose solutions are known (B1, B6, B7, B8)."""

import math

import pytest
import torch

from espnet_ext.bilevel.penalty import GammaSchedule, divide_rate_by, gradient_scale
from espnet_ext.errors import UserError


def test_gradient_scale_is_the_identity_with_another_slope():
    x = torch.randn(5, dtype=torch.double, requires_grad=True)
    assert torch.equal(gradient_scale(x, 0.3), x)
    for factor in (0.0, 0.3, 1.0, 7.0):
        (gradient,) = torch.autograd.grad(gradient_scale(x, factor).pow(3).sum(), x)
        torch.testing.assert_close(gradient, factor * 3 * x.detach() ** 2)


def test_one_backward_pass_gives_gamma_to_theta_and_one_to_eta():
    """The operation between θ and η: γ ∇_θ and 1 ∇_η of the same loss (B1), doubled when γ doubles."""

    def gradients(gamma: float):
        theta, eta = torch.tensor([1.5, -2.0], requires_grad=True), torch.tensor(0.7, requires_grad=True)
        loss = (eta * gradient_scale(theta**2, gamma)).sum().sin()
        return torch.autograd.grad(loss, (theta, eta))

    theta, eta = torch.tensor([1.5, -2.0]), 0.7
    outer = math.cos(eta * 6.25)
    for gamma in (0.0, 0.25, 0.5, 3.0):
        for_theta, for_eta = gradients(gamma)
        torch.testing.assert_close(for_theta, gamma * outer * eta * 2 * theta)
        torch.testing.assert_close(for_eta, torch.tensor(outer * 6.25))
    torch.testing.assert_close(gradients(0.5)[0], 2 * gradients(0.25)[0])


def test_gamma_grows_linearly_to_its_maximum():
    """γ_k = min(γ_max, γ_0 + k Δ), k counting steps or epochs (B6)."""
    schedule = GammaSchedule(0.1, 0.02, 0.5, "step")
    assert [schedule.at(k, 9) for k in (0, 1, 10, 20, 21, 1000)] == pytest.approx(
        [0.1, 0.12, 0.3, 0.5, 0.5, 0.5]
    )
    assert GammaSchedule(0.1, 0.02, 0.5, "epoch").at(1000, 3) == pytest.approx(0.16)
    paper = GammaSchedule()  # 0.002 an epoch: only 0.4 after 200 epochs
    assert paper.at(10**6, 200) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"initial": -0.1}, "gamma_initial: -0.1: expected a number of at least 0"),
        ({"increment": -1.0}, "gamma_increment"),
        ({"maximum": math.inf}, "gamma_maximum: inf"),
        ({"maximum": math.nan}, "gamma_maximum: nan"),
        ({"initial": 2.0}, "gamma_initial: 2.0 is above gamma_maximum, 1.0"),
        ({"per": "batch"}, "gamma_per: batch: expected step or epoch"),
    ],
)
def test_gamma_out_of_range(values, message):
    with pytest.raises(UserError, match=message):
        GammaSchedule(**values)


def minimise(supervised, unsupervised, theta: torch.Tensor, gamma: float, steps: int, rate: float):
    """Joint steps of the method with plain gradient descent, the rate divided by γ once γ > 1."""
    theta = theta.clone().requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=rate)
    divide_rate_by(optimizer, lambda: max(1.0, gamma))
    for _ in range(steps):
        optimizer.zero_grad()
        (supervised(theta) + unsupervised(gradient_scale(theta, gamma))).backward()
        optimizer.step()
    return theta.detach()


@pytest.mark.parametrize(("gamma", "solution"), [(0, 1.0), (0.5, 5 / 3), (1, 2.0), (10, 31 / 11)])
def test_quadratic_toy(gamma, solution):
    """(θ − 1)² + γ (θ − 3)² has its minimum at (1 + 3 γ) / (1 + γ) (B7)."""
    start = torch.tensor(0.0, dtype=torch.double)
    theta = minimise(lambda x: (x - 1) ** 2, lambda x: (x - 3) ** 2, start, gamma, 400, 0.1)
    assert float(theta) == pytest.approx(solution, abs=1e-9)


def test_as_gamma_grows_the_best_of_the_lower_levels_solutions_is_found():
    """The lower level leaves the plane θ·u = 2 free. The upper one wants a: its projection is right (B8)."""
    a = torch.tensor([1.0, 4.0, -2.0], dtype=torch.double)
    u = torch.tensor([1.0, 2.0, 2.0], dtype=torch.double) / 3
    projection = a + (2 - a @ u) * u
    for gamma in (1.0, 10.0, 100.0):
        theta = minimise(
            lambda x: (x - a).square().sum(),
            lambda x: (x @ u - 2) ** 2,
            torch.zeros(3, dtype=torch.double),
            gamma,
            int(40 * max(gamma, 10)),
            0.4,
        )
        # In closed form: only the component along u is pulled, by γ / (1 + γ) of the way.
        exact = a + gamma / (1 + gamma) * (2 - a @ u) * u
        torch.testing.assert_close(theta, exact, rtol=1e-6, atol=1e-6)
        distance = float((theta - projection).norm())
        assert distance == pytest.approx(abs(float(2 - a @ u)) / (1 + gamma), rel=1e-3)
    assert abs(float(projection @ u) - 2) < 1e-12 and distance < 0.004


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_divided_rate_is_that_rate_and_is_put_back(optimizer):
    """At rate r divided by 4 a step is one at r / 4; the schedule sees r. By 1 it is the same to the bit."""

    def step(rate: float, divisor: float | None):
        weight = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
        one = optimizer([weight], lr=rate)
        if divisor is not None:
            divide_rate_by(one, lambda: divisor)
        schedule = torch.optim.lr_scheduler.ExponentialLR(one, 0.5)
        weight.grad = torch.tensor([0.3, 0.7])
        one.step()
        schedule.step()
        return weight.detach(), one.param_groups[0]["lr"]

    plain, rate = step(0.01, None)
    same, _ = step(0.01, 1.0)
    assert torch.equal(plain, same) and rate == 0.005
    quarter, _ = step(0.0025, None)
    divided, rate = step(0.01, 4.0)
    torch.testing.assert_close(divided, quarter, rtol=1e-7, atol=0)
    assert rate == 0.005
    assert not torch.allclose(divided, plain)
