"""Embedding prediction by a transducer: the whole method, on a small recogniser."""

import pytest
import torch

from espnet_ext.asr.transducer_method import TransducerMethod
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import FORMS, TransferOptions
from espnet_ext.lm_transfer.targets import TargetBatch, Targets
from espnet_ext.lm_transfer.transducer import TransducerTransfer
from espnet_ext.train.method import MicroBatch, Totals


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
