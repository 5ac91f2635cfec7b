"""Embedding prediction by a transducer, held to enumeration of every alignment, and to the plain
transducer.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch

from espnet_ext.asr.transducer_loss import JointNodes
from espnet_ext.asr.transducer_method import Tally, TransducerMethod
from espnet_ext.lm_transfer.distances import distance
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import FORMS, TransferOptions
from espnet_ext.lm_transfer.targets import TargetBatch, Targets
from espnet_ext.lm_transfer.transducer import TransducerTransfer, emission_weights
from espnet_ext.train.method import MicroBatch, Totals

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


# The whole method, on a small recogniser.


@pytest.fixture
def make_method(build_transducer, make_updater, make_store, transcripts, fake_teacher):
    """Function: options of the method → TransducerTransfer on a small recogniser."""
    store = make_store([transcripts], fake_teacher)

    def make(loss_norm="utterance", ctc=0.3, lr=0.003, **options) -> TransducerTransfer:
        model = build_transducer(auxiliary_ctc_weight=ctc)
        torch.manual_seed(5)
        head = EmbeddingHead(12 if options.get("form") == "predictor" else 10, 3)
        targets = Targets(store, [transcripts], 9)
        chosen = TransferOptions(**options)
        return TransducerTransfer(
            model, make_updater(model, lr), head, make_updater(head, lr), targets, chosen, 1000, loss_norm
        )

    return make


@pytest.mark.parametrize(
    "form, loss_norm",
    [
        ("surrogate", "utterance"),
        ("surrogate", "token"),
        ("best_path", "utterance"),
        ("predictor", "utterance"),
    ],
)
def test_training_with_weight_zero_is_the_control(
    make_method, build_transducer, make_updater, one_step, assert_same_training, form, loss_norm
):
    """K1: twenty steps with dropout, masks and clipping, to the bit, while the extra branch runs."""
    model = build_transducer(auxiliary_ctc_weight=0.3)
    control = TransducerMethod(model, make_updater(model), loss_norm)
    expected = one_step.run(control, 20)
    method = make_method(loss_norm, form=form, weight=0.0)
    seen = []
    for parameter in method.head.parameters():
        parameter.register_hook(lambda gradient: seen.append(float(gradient.abs().max())))
    figures = one_step.run(method, 20)
    assert_same_training(method, control)
    assert len(seen) >= 80 and not any(seen)
    for ours, theirs in zip(figures, expected, strict=True):
        assert {n: float(ours[n][0]) for n in theirs} == {n: float(f[0]) for n, f in theirs.items()}


def test_the_exact_form_with_weight_zero(make_method, build_transducer, one_step):
    """The exact form computes the plain loss by another engine: gradients of a step agree to 1e-6 of their
    scale.
    """
    method = make_method(form="exact")
    control = TransducerMethod(method.model, method.updaters["model"])
    found = []
    for part in (control.transducer_part, lambda micro: method.transfer_part(micro, 0.0)):
        method.model.zero_grad()
        for micro in one_step.micro_batches():
            micro.seed("model")
            part(micro).loss.backward()
        found.append({n: p.grad.clone() for n, p in method.model.named_parameters()})
    for name, expected in found[0].items():
        scale = max(float(expected.abs().max()), 1e-3)
        assert float((found[1][name] - expected).abs().max()) <= 1e-6 * scale + 1e-7, name


def step_gradients(method, part, micro_batches) -> dict[str, torch.Tensor]:
    """Gradient of a step by parameter of the model and the head."""
    parameters = {f"{m}.{n}": p for m, module in method.modules.items() for n, p in module.named_parameters()}
    for parameter in parameters.values():
        parameter.grad = None
    for micro in micro_batches:
        micro.seed("model")
        part(micro).loss.backward()
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


@pytest.mark.parametrize("form", FORMS)
def test_half_precision(make_method, one_step, form):
    """Under bf16 autocast posteriors, distances and the head are fp32's, and λ = 0 is the control to the
    bit.
    """
    method = make_method(form=form)
    method.train()
    control = TransducerMethod(method.model, method.updaters["model"])
    seen = []
    method.head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))

    def half(part):
        def run(micro):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = part(micro)
            assert loss.loss.isfinite() and loss.loss.dtype == torch.float32
            return loss

        return step_gradients(method, run, one_step.micro_batches())

    plain = half(control.transducer_part)
    zero, one = (half(lambda micro, w=weight: method.transfer_part(micro, w)) for weight in (0.0, 1.0))
    assert set(seen) == {(torch.float32, torch.float32)}
    assert form == "exact" or all(torch.equal(zero[name], value) for name, value in plain.items())
    assert any(not torch.equal(one[name], value) for name, value in plain.items())
    assert all(value.isfinite().all() for value in one.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_micro_batches_change_nothing(make_method, one_step, speech, form, loss_norm):
    """However a step is cut, for memory or over processes, its gradient is the same."""
    method = make_method(loss_norm, form=form, weight=0.5)
    method.train(False)
    totals = one_step.step.totals
    halves = speech.split()
    found = []
    for cut in ([speech], halves, [halves[0], *halves[1].split()]):
        micro = [MicroBatch(batch, totals, None) for batch in cut]
        found.append(step_gradients(method, lambda each: method.transfer_part(each, 0.5), micro))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_with_an_empty_transcript(
    make_method, make_store, write_text, fake_teacher, make_batch, form
):
    """It trains beside others; it has no target but that of <eos>, which a transducer does not emit."""
    rows = {"utt0": "", "utt1": "ace"}
    path = write_text("empty/text", rows)
    method = make_method(form=form)
    method.targets = Targets(make_store([path], fake_teacher, folder="empty_targets"), [path], 9)
    loss = method.transfer_part(MicroBatch(make_batch(rows), Totals(2, 5, 0), [1, 2]), 0.5)
    loss.loss.backward()
    assert loss.loss.isfinite() and float(loss.figures["lm_distance"][1]) == pytest.approx(3, abs=1e-4)


def test_a_cosine_says_nothing_about_variance(make_method, one_step):
    for kind, there in (("cosine", False), ("l1", True)):
        figures = make_method(distance=kind).validate(one_step.micro_batches()[0])
        assert ("lm_r2" in figures) == there and "lm_distance" in figures and "lm_weight" not in figures


#: Parameters that must not hear of the embeddings, by form.
DEAF = {
    "surrogate": ("joint_network.lin_out", "ctc_lin"),
    "best_path": ("joint_network.lin_out", "ctc_lin"),
    "predictor": ("joint_network", "ctc_lin", "encoder"),
}


@pytest.mark.parametrize("form", list(DEAF))
def test_where_the_gradient_flows(make_method, one_step, form):
    """Encoder, predictor and the joint network's inner layers learn from it; its output layer does not."""
    method = make_method(form=form)
    method.train()
    parameters = dict(method.model.named_parameters())
    found = []
    for weight in (0.0, 1.0):
        method.model.zero_grad()
        for micro in one_step.micro_batches():
            micro.seed("model")
            method.transfer_part(micro, weight).loss.backward()
        found.append({n: p.grad.clone() for n, p in parameters.items()})
    moved = {name for name in parameters if not torch.equal(found[0][name], found[1][name])}
    assert not [name for name in moved if name.startswith(DEAF[form])]
    hearing = {"encoder", "decoder", "joint_network"} - set(DEAF[form])
    assert {name.split(".")[0] for name in moved} == hearing


@pytest.fixture
def double():
    """New tensors are float64: ESPnet's prediction network makes its own first state."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_gradient_is_the_weight_times_the_branchs_own(make_method, one_step, double):
    """In float64, and of each parameter: control + 1e-3 · branch."""
    method = make_method(form="surrogate", ctc=0.0)
    method.model.double()
    method.head.double()
    for _, batch in one_step.step.batches:
        batch.tensors["speech"] = batch.tensors["speech"].double()
    targets = method.targets.batch
    method.targets.batch = lambda batch: TargetBatch((found := targets(batch)).values.double(), found.there)
    found = []
    for weight in (0.0, 1e-3, 1.0):
        for module in method.modules.values():
            module.zero_grad()
        for micro in one_step.micro_batches():
            micro.seed("model")
            method.transfer_part(micro, weight).loss.backward()
        found.append({n: p.grad.clone() for m in method.modules.values() for n, p in m.named_parameters()})
    for name, control in found[0].items():
        branch = found[2][name] - control
        torch.testing.assert_close(found[1][name] - control, 1e-3 * branch, rtol=1e-4, atol=1e-12, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["surrogate", "exact", "best_path", "predictor"])
def test_it_is_learned(make_method, one_step, form):
    figures = one_step.run(make_method(weight=1.0, form=form, lr=0.01), 60)
    first, last = (float(f["lm_distance"][0] / f["lm_distance"][1]) for f in (figures[0], figures[-1]))
    assert last < 0.7 * first
    assert float(figures[-1]["loss_transducer"][0]) < float(figures[0]["loss_transducer"][0])
