"""Embedding prediction by a transducer, held to enumeration of every alignment, and to the plain
transducer.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch

from espnet_ext.asr.transducer_loss import JointNodes
from espnet_ext.asr.transducer_method import Tally
from espnet_ext.lm_transfer.distances import distance
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import TransferOptions
from espnet_ext.lm_transfer.targets import TargetBatch
from espnet_ext.lm_transfer.transducer import TransducerTransfer, emission_weights

J, V, E = 3, 4, 2
WEIGHT = 0.7


def make_nodes(*sizes: tuple[int, int], seed: int = 0) -> tuple[JointNodes, TargetBatch]:
    """Random nodes and targets of utterances of (frames, labels), in float64."""
    draw = torch.Generator().manual_seed(seed)
    time, width = max(t for t, _ in sizes), max(u for _, u in sizes)
    hidden = torch.randn(len(sizes), time, width + 1, J, generator=draw, dtype=torch.float64)
    scores = torch.randn(len(sizes), time, width + 1, V, generator=draw, dtype=torch.float64)
    frames, labels = (torch.tensor(each) for each in zip(*sizes, strict=True))
    targets = torch.randint(1, V, (len(sizes), width), generator=draw)
    scores.requires_grad_()
    nodes = JointNodes(
        slice(0, len(sizes)), hidden.requires_grad_(), lambda _: scores, frames, targets, labels
    )
    values = torch.randn(len(sizes), width + 1, E, generator=draw, dtype=torch.float64)
    there = torch.arange(width + 1) <= labels[:, None]
    return nodes, TargetBatch(values.masked_fill(~there[..., None], 0.0), there)


def make_loss(
    form: str, floor: float = 0.0, head: str = "mlp", transducer_weight: float = 1.0, **options
) -> TransducerTransfer:
    """The method without a recogniser: its objective reads nodes alone."""
    torch.manual_seed(4)
    model = SimpleNamespace(transducer_weight=transducer_weight)
    chosen = TransferOptions(form=form, floor=floor, **options)
    return TransducerTransfer(model, None, EmbeddingHead(J, E, head).double(), None, None, chosen, 10)


def objective(method, nodes, targets, weight=WEIGHT, tally=None) -> torch.Tensor:
    tally = Tally() if tally is None else tally
    return sum(method.objective(nodes, targets=targets, weight=weight, denominator=1.0, tally=tally))


def alignments(frames: int, labels: int):
    return itertools.combinations_with_replacement(range(frames), labels)


def enumerate_loss(method, nodes: JointNodes, targets: TargetBatch, row: int) -> torch.Tensor:
    """-log of the sum over alignments of the products of their arcs, each label arc emitting its embedding
    too.
    """
    frames, labels = int(nodes.frames[row]), int(nodes.labels[row])
    scores = nodes.scores[row].log_softmax(-1)
    weights = []
    for emitted in alignments(frames, labels):
        total = sum(scores[t, sum(e <= t for e in emitted), 0] for t in range(frames))
        for u, t in enumerate(emitted):
            prediction = method.head(nodes.hidden[row, t, u])
            total = total + scores[t, u, nodes.targets[row, u]]
            if not targets.there[row, u]:
                continue
            total = total - WEIGHT * distance(prediction, targets.values[row, u], method.options.distance)
        weights.append(total)
    return -torch.stack(weights).logsumexp(0)


SIZES = [(frames, labels) for frames in range(1, 6) for labels in range(5)]


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine"])
def test_exact_form_equals_enumeration(kind):
    """K4: all sizes up to 5 frames and 4 labels in one batch; value and every gradient to 1e-10."""
    method = make_loss("exact", distance=kind)
    nodes, targets = make_nodes(*SIZES)
    targets.there[SIZES.index((5, 4)), 1] = targets.there[SIZES.index((4, 2)), 0] = False
    ours = objective(method, nodes, targets)
    expected = sum(enumerate_loss(method, nodes, targets, row) for row in range(len(SIZES)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    inputs = [nodes.hidden, nodes.scores, *method.head.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_emission_weights_are_posteriors():
    """K5: they add up to 1 over the frames for each label, and are 0 beyond the lengths; so does the best
    path.
    """
    nodes, _ = make_nodes((5, 4), (3, 2), (4, 0))
    for form, floor in (("surrogate", 0.0), ("surrogate", 0.3), ("best_path", 0.0)):
        found = emission_weights(nodes, form, floor)
        expected = (torch.arange(4) < nodes.labels[:, None]).double()
        torch.testing.assert_close(found.sum(1), expected, rtol=0, atol=1e-12)
        assert found[1, 3:].eq(0).all() and found[1, :, 2:].eq(0).all() and not found.requires_grad
    every, some = (emission_weights(nodes, "surrogate", floor) for floor in (0.0, 0.3))
    kept = every >= 0.3 * every.amax(1, keepdim=True)
    assert torch.equal(some > 0, kept & (every > 0)) and 0 < int((some > 0).sum()) < int((every > 0).sum())
    assert set(emission_weights(nodes, "best_path", 0.0).unique().tolist()) == {0.0, 1.0}


def test_surrogate_has_the_exact_gradient_when_its_posteriors_are_the_joint_lattices():
    """K6: Σ ω λ d with ω from the joint lattice, held fixed, against the exact form: the same gradient of
    the head.
    """
    from espnet_ext.asr.lattice import lattice

    method = make_loss("exact")
    nodes, targets = make_nodes((5, 4), (3, 2), (1, 3))
    exact = torch.autograd.grad(objective(method, nodes, targets), tuple(method.head.parameters()))
    blank, label = (arc.detach() for arc in nodes.arcs())
    prediction = method.head(nodes.hidden[:, :, :-1])
    each = distance(prediction, targets.values[:, None, :-1].expand_as(prediction), "mse")
    joint = lattice(blank, label - WEIGHT * each.detach(), nodes.frames, nodes.labels)
    surrogate = torch.autograd.grad((joint.label * WEIGHT * each).sum(), tuple(method.head.parameters()))
    for mine, theirs in zip(surrogate, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_surrogate_value():
    """Σ ω λ d from its definition, ω of the plain lattice by enumeration; no gradient through ω."""
    method = make_loss("surrogate")
    nodes, targets = make_nodes((4, 3))
    scores = nodes.scores[0].log_softmax(-1)
    paths = list(alignments(4, 3))
    logs = torch.stack(
        [
            sum(scores[t, sum(e <= t for e in p), 0] for t in range(4))
            + sum(scores[t, u, nodes.targets[0, u]] for u, t in enumerate(p))
            for p in paths
        ]
    )
    extra = 0.0
    for path, posterior in zip(paths, logs.softmax(0).detach(), strict=True):
        for u, t in enumerate(path):
            prediction = method.head(nodes.hidden[0, t, u])
            extra = extra + posterior * WEIGHT * distance(prediction, targets.values[0, u], "mse")
    ours, expected = objective(method, nodes, targets), extra - logs.logsumexp(0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    inputs = [nodes.hidden, nodes.scores, *method.head.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_one_frame_is_the_attention_decoders_sum(form):
    """K7: with a single alignment every form adds λ Σ_u d."""
    method = make_loss(form)
    nodes, targets = make_nodes((1, 4))
    prediction = method.head(nodes.hidden[0, 0, :4])
    expected = WEIGHT * distance(prediction, targets.values[0, :4], "mse").sum()
    extra = objective(method, nodes, targets) - objective(method, nodes, targets, weight=0.0)
    torch.testing.assert_close(extra, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_a_distance_that_is_the_same_everywhere_moves_no_score(form):
    """K8: d = c_u at every node shifts the loss by λ Σ c_u and leaves the gradient of the scores alone."""
    method = make_loss(form, head="linear")
    nodes, targets = make_nodes((5, 3), (4, 2))
    with torch.no_grad():
        method.head[0].weight.zero_()  # the prediction is the bias, wherever it is made
    ours, plain = objective(method, nodes, targets), objective(method, nodes, targets, weight=0.0)
    there = torch.arange(4) < nodes.labels[:, None]
    constants = distance(method.head[0].bias.expand(2, 4, E), targets.values, "mse")[there].sum()
    torch.testing.assert_close(ours - plain, WEIGHT * constants, rtol=0, atol=1e-11)
    gradients = [torch.autograd.grad(loss, nodes.scores, retain_graph=True)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_weight_zero_is_the_plain_loss(form):
    """K1 on the lattice: same loss, same gradient of the nodes, none of the head."""
    method = make_loss(form)
    nodes, targets = make_nodes(*SIZES)
    loss = objective(method, nodes, targets, weight=0.0)
    plain = nodes.losses().sum()
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    inputs = [nodes.scores, nodes.hidden, *method.head.parameters()]
    scores, *others = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(scores, torch.autograd.grad(plain, nodes.scores)[0], rtol=0, atol=1e-12)
    assert all(gradient.eq(0).all() for gradient in others)


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_no_gradient_outside_and_without_target(form):
    """K11: beyond the lengths, and at the arcs of a label that has no embedding."""
    method = make_loss(form, head="linear")
    nodes, targets = make_nodes((5, 4), (3, 2))
    targets.there[0, 1] = False
    gradient = torch.autograd.grad(objective(method, nodes, targets), nodes.hidden)[0]
    assert gradient[1, 3:].eq(0).all() and gradient[1, :, 2:].eq(0).all()
    assert gradient[0, :, 1].eq(0).all() and gradient[0, :, 4].eq(0).all()
    assert gradient[0, :, 0].abs().max() > 0 and gradient[0, :, 2].abs().max() > 0


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_figures(form):
    """The distance that is logged is a mean over labels, R² the part of their variance; the loss the plain
    one.
    """
    method = make_loss(form)
    nodes, targets = make_nodes((5, 4), (3, 2))
    tally = Tally()
    objective(method, nodes, targets, tally=tally)
    sums = {name: float(value) for name, value in tally.sums.items()}
    assert sums["labels"] == pytest.approx(6)
    assert sums["transducer"] == pytest.approx(float(nodes.losses().sum()))
    assert sums["distance"] == pytest.approx((sums["total"] - sums["explained"]) / E)  # mse is a mean over E


def gradients(method, nodes, targets) -> list[torch.Tensor]:
    """Value and gradients of the objective."""
    value = objective(method, nodes, targets)
    return [value, *torch.autograd.grad(value, [nodes.hidden, nodes.scores, *method.head.parameters()])]


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_nodes_are_read_a_few_at_a_time(form, monkeypatch):
    """Pieces of the lattice change the memory alone, wherever they are cut."""
    method, sizes = make_loss(form), ((5, 4), (3, 2), (4, 0))
    whole = gradients(method, *make_nodes(*sizes))
    rows = []
    method.head.register_forward_hook(lambda _, inputs, output: rows.append(output.numel() // E))
    for nodes_at_once in (1, 7):
        monkeypatch.setattr("espnet_ext.lm_transfer.transducer.NODES", nodes_at_once)
        for mine, expected in zip(gradients(method, *make_nodes(*sizes)), whole, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
        # The exact form looks at all labels of a frame at once.
        assert max(rows) <= max(nodes_at_once, 3 * 4 if form == "exact" else 0)
        rows.clear()


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_the_transducers_own_weight_is_on_both_terms(form):
    """ESPnet's `transducer_weight` beside auxiliary losses: λ says how large one term is beside the other."""
    whole, half = (gradients(make_loss(form, transducer_weight=w), *make_nodes((4, 3))) for w in (1.0, 0.5))
    for mine, expected in zip(half, whole, strict=True):
        torch.testing.assert_close(mine, expected / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["exact", "surrogate", "best_path"])
def test_utterances_without_labels(form):
    """Nothing is emitted, so that nothing is predicted; neither alone nor beside others."""
    method = make_loss(form)
    nodes, targets = make_nodes((3, 0), (2, 0))
    value = objective(method, nodes, targets)
    torch.testing.assert_close(value, nodes.losses().sum(), rtol=0, atol=1e-12)
    assert all(g.eq(0).all() for g in torch.autograd.grad(value, tuple(method.head.parameters())))


def test_predictor_value():
    """g reads the prediction network's output behind u labels, and d is that to label u + 1's embedding."""
    method = make_loss("predictor", transducer_weight=0.5)
    _, targets = make_nodes((1, 4), (1, 2), (1, 0))
    targets.there[0, 1] = False
    states = torch.randn(3, 5, J, dtype=torch.float64, requires_grad=True)
    output = SimpleNamespace(predictor_out=states, target_lens=torch.tensor([4, 2, 0]))
    tally = Tally()
    loss = method.predictor_loss(output, targets, WEIGHT / 3, tally)
    pairs = [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1)]  # neither <eos>, nor padding, nor what has no target
    each = [(method.head(states[b, u]) - targets.values[b, u]).pow(2).mean() for b, u in pairs]
    torch.testing.assert_close(loss, 0.5 * WEIGHT / 3 * sum(each), rtol=0, atol=1e-12)
    assert float(tally.sums["distance"]) == pytest.approx(float(sum(each))) and tally.sums["labels"] == 5
    read = torch.autograd.grad(loss, states)[0].abs().amax(-1) > 0
    assert {tuple(place) for place in read.nonzero().tolist()} == set(pairs)
