"""Who receives which gradient, how much of it, and that it is the losses' own (B1, B4, B5)."""

import pytest
import torch

from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.ssl.method import UNLABELLED_KEY
from espnet_ext.train.method import Part, Position

JOINT_ALONE = {"warm_epochs": 0, "final_epochs": 0, "explore_steps": 0, "gamma_increment": 0.0}
#: Name of a YAML file, and further options: the two objectives, and the paths of a gradient that they have.
OBJECTIVES = {
    "bestrq": ("bilevel", []),
    "infonce": ("bilevel_infonce", []),
    "infonce, targets with gradient": ("bilevel_infonce", ["--ssl_conf", "target_gradient=all"]),
}


def gradients(run, parts, parameters) -> list[torch.Tensor]:
    """Gradients of parts on given micro-batches, dropout drawn as the loop does."""
    for parameter in parameters:
        parameter.grad = None
    for part, micro in parts:
        micro.seed(part.key)
        part.loss(micro).loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in parameters]


@pytest.fixture
def at_joint_step(training, bilevel_conf):
    """Function: objective → (run, its two parts with a micro-batch each, parameters of θ, φ and η)."""

    def make(objective: str):
        name, options = OBJECTIVES[objective]
        run = training(BilevelTask, name, *options, *bilevel_conf(**JOINT_ALONE))
        (turn,) = run.method.turns(Position(1, 0, 0))
        supervised, penalty = ((part, run.micro(part.source)) for part in turn.parts)
        theta = list(run.model.encoder.parameters())
        known = {id(p) for p in theta}
        phi = [p for p in run.model.parameters() if id(p) not in known]
        return run, supervised, penalty, theta, phi, list(run.method.objective.parameters())

    return make


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_into_theta_is_gamma_times_the_branch_s_own(at_joint_step, objective):
    """B1, against a backward pass of the plain loss: γ, twice γ, and 1e-3."""
    run, _, penalty, theta, _, eta = at_joint_step(objective)
    plain = Part("unlabelled", run.method.lower_part, UNLABELLED_KEY)
    own = gradients(run, [(plain, penalty[1])], theta + eta)
    scale = max(g.abs().max() for g in own)
    for gamma in (1e-3, 0.5, 1.0, 2.0):
        run.method.gamma = gamma
        mine = gradients(run, [penalty], theta + eta)
        for parameter, expected in zip(mine[: len(theta)], own, strict=False):
            assert (parameter - gamma * expected).abs().max() <= 1e-6 * gamma * scale
        assert all(torch.equal(g, o) for g, o in zip(mine[len(theta) :], own[len(theta) :], strict=True))
    assert all(float(g.abs().max()) > 0 for g in own)


@pytest.mark.parametrize("objective", ["bestrq", "infonce"])
def test_joint_gradient_is_the_sum(at_joint_step, objective):
    """With γ = 1e-3 the encoder's gradient differs from the control's by 1e-3 times the branch's own."""
    run, supervised, penalty, theta, _, _ = at_joint_step(objective)
    alone = gradients(run, [supervised], theta)
    run.method.gamma = 1.0
    branch = gradients(run, [penalty], theta)
    run.method.gamma = 1e-3
    both = gradients(run, [supervised, penalty], theta)
    # The sum is rounded at the scale of the supervised gradient.
    for together, single, own in zip(both, alone, branch, strict=True):
        torch.testing.assert_close(together, single + 1e-3 * own, rtol=1e-6, atol=1e-7)
    assert max((b - a).abs().max() for b, a in zip(both, alone, strict=True)) > 1e-5


def test_heads_know_nothing_of_each_other(at_joint_step):
    """B5: φ's gradient does not depend on γ, η's not on the labels, and ℓ_unsup does not reach φ."""
    run, supervised, penalty, _, phi, eta = at_joint_step("bestrq")
    found = []
    for gamma in (0.0, 3.0):
        run.method.gamma = gamma
        found.append(gradients(run, [supervised, penalty], phi))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert sum(float(g.abs().sum()) > 0 for g in found[0]) == len(phi)
    first = gradients(run, [supervised, penalty], eta)
    for name in ("text", "text_lengths"):
        supervised[1].batch.tensors[name] = supervised[1].batch.tensors[name].flip(0)
    second = gradients(run, [supervised, penalty], eta)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for parameter in phi:
        parameter.grad = None
    gradients(run, [penalty], eta)
    assert all(parameter.grad is None for parameter in phi)


@pytest.mark.parametrize("objective", ["bestrq", "infonce, targets with gradient"])
def test_gradients_are_those_of_finite_differences(at_joint_step, objective):
    """θ descends ℓ_sup + γ ℓ_unsup, φ descends ℓ_sup and η descends ℓ_unsup, whatever autograd says.

    Along the gradient itself, where the slope is its length; the losses' values are not scaled by γ.
    """
    run, supervised, penalty, theta, phi, eta = at_joint_step(objective)
    gamma = run.method.gamma = 0.7

    def losses() -> tuple[float, float]:
        values = []
        for part, micro in (supervised, penalty):
            micro.seed(part.key)
            with torch.no_grad():
                values.append(part.loss(micro).loss.item())
        return values[0], values[1]

    found = gradients(run, [supervised, penalty], theta + phi + eta)
    for group, weights in ((theta, (1.0, gamma)), (phi, (1.0, 0.0)), (eta, (0.0, 1.0))):
        mine = [g for p, g in zip(theta + phi + eta, found, strict=True) if any(p is q for q in group)]
        length = float(torch.cat([g.flatten() for g in mine]).norm())
        step, ends = 0.01, []
        for sign in (1, -2):  # forward, then back through the middle
            with torch.no_grad():
                for parameter, gradient in zip(group, mine, strict=True):
                    parameter += sign * step / length * gradient
            ends.append(sum(w * value for w, value in zip(weights, losses(), strict=True)))
        with torch.no_grad():
            for parameter, gradient in zip(group, mine, strict=True):
                parameter += step / length * gradient
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(length, rel=0.02)


@pytest.mark.parametrize("objective", ["bestrq", "infonce"])
def test_losses_are_means_before_gamma_applies(at_joint_step, objective):
    """ℓ_sup is the mean over labels, ℓ_unsup over predictions: what the log shows as such, too.

    The latter is divided by the expected number of predictions, so that a single batch is only near.
    """
    run, supervised, penalty, *_ = at_joint_step(objective)
    run.method.gamma = 0.25
    for (part, micro), figure, tolerance in (
        (supervised, "loss", 1e-6),
        (penalty, "loss_unsupervised", 0.25),
    ):
        # A micro-batch of these tests is a whole step, so that its share is all.
        assert micro.totals.utterances == len(micro.batch.utterances)
        result = part.loss(micro)
        total, count = result.figures[figure]
        assert result.loss.item() == pytest.approx(float(total) / count, rel=tolerance), figure
    # The penalty as it weighs, for the log alone: the loss's value is not scaled.
    weighed, predictions = result.figures["loss_unsupervised_times_gamma"]
    assert float(weighed) == 0.25 * float(total) and predictions == count


@pytest.mark.parametrize("objective", ["bestrq", "infonce"])
def test_unlabelled_speech_is_masked_by_the_objective_alone(at_joint_step, objective, monkeypatch):
    """No SpecAugment; other masks in another pass over the data, the same in the same one."""
    run, (supervised, labelled), (penalty, micro), *_ = at_joint_step(objective)

    def loss(part, of) -> float:
        of.seed(part.key)
        return part.loss(of).loss.item()

    assert not set(run.method.objective._keys(micro)) & set(micro.keys)  # those are SpecAugment's
    first = loss(penalty, micro)
    micro.keys = run.streams["unlabelled"].augment_keys(micro.batch, 2)
    assert loss(penalty, micro) != first
    micro.keys = run.streams["unlabelled"].augment_keys(micro.batch, 1)
    monkeypatch.setattr(run.model, "keyed_specaug", None)
    assert loss(penalty, micro) == first
    without = loss(supervised, labelled)
    monkeypatch.undo()
    assert loss(supervised, labelled) != without
