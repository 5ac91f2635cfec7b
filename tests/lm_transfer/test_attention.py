"""Embedding prediction by an attention decoder: its value, where its gradient flows, and that 0 is the
control.
"""

import random

import pytest
import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASROutput
from espnet_ext.lm_transfer.attention import AttentionTransfer
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import TransferOptions
from espnet_ext.lm_transfer.targets import TargetBatch, Targets
from espnet_ext.train.method import MicroBatch, Position, Totals


@pytest.fixture
def make_method(build_asr, make_updater, make_store, transcripts, fake_teacher):
    """Function: options of the method → AttentionTransfer on a small recogniser."""
    store = make_store([transcripts], fake_teacher)

    def make(loss_norm="utterance", model=None, lr=0.003, **options) -> AttentionTransfer:
        model = model or build_asr()
        torch.manual_seed(5)
        head = EmbeddingHead(16, 3, options.get("head", "linear"))
        targets = Targets(store, [transcripts], 9)
        chosen = TransferOptions(**options)
        return AttentionTransfer(
            model, make_updater(model, lr), head, make_updater(head, lr), targets, chosen, 1000, loss_norm
        )

    return make


def gradients(method, micro_batches, weight: float) -> dict[str, torch.Tensor | None]:
    """Gradient of the first step's loss by parameter, heads included."""
    parameters = {f"{m}.{n}": p for m, module in method.modules.items() for n, p in module.named_parameters()}
    for parameter in parameters.values():
        parameter.grad = None
    for micro in micro_batches:
        micro.seed("model")
        method.transfer_part(micro, weight).loss.backward()
    return {name: p.grad for name, p in parameters.items()}


@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_weight_zero_is_the_control(
    make_method, build_asr, make_updater, one_step, assert_same_training, loss_norm
):
    """K1: twenty steps with dropout, masks and clipping, while the extra branch runs forward and backward."""
    model = build_asr()
    control = JointMethod(model, make_updater(model), loss_norm)
    expected = one_step.run(control, 20)
    method = make_method(loss_norm, weight=0.0)
    seen = []
    method.head.register_forward_hook(lambda *_: seen.append("forward"))
    for parameter in method.head.parameters():
        parameter.register_hook(lambda gradient: seen.append(float(gradient.abs().max())))
    figures = one_step.run(method, 20)
    assert_same_training(method, control)
    assert seen.count("forward") == 40 and [s for s in seen if s != "forward"] == [0.0] * 80
    for ours, theirs in zip(figures, expected, strict=True):
        assert {n: float(ours[n][0]) for n in theirs} == {n: float(f[0]) for n, f in theirs.items()}


def test_gradient_is_the_weight_times_the_branchs_own(make_method, build_asr, one_step):
    """In float64, and of each parameter: control + 1e-3 · branch."""
    method = make_method(model=build_asr(ctc_weight=0.0).double())
    method.head.double()
    for _, batch in one_step.step.batches:
        batch.tensors["speech"] = batch.tensors["speech"].double()
    control, small, large = (gradients(method, one_step.micro_batches(), w) for w in (0.0, 1e-3, 1.0))
    for name, gradient in small.items():
        branch = large[name] - control[name]
        torch.testing.assert_close(gradient - control[name], 1e-3 * branch, rtol=1e-4, atol=1e-12, msg=name)


def test_where_the_gradient_flows(make_method, one_step):
    """Encoder and decoder learn from it; CTC and the decoder's output layer get nothing; nor does the LM."""
    method = make_method()
    method.train()
    parameters = dict(method.modules["model"].named_parameters())
    micro = one_step.micro_batches()[0]
    output = method.model.outputs(**micro.batch.tensors, keys=micro.keys)
    total, _ = method.embedding_loss(output, method.targets.batch(micro.batch))
    found = dict(
        zip(parameters, torch.autograd.grad(total, parameters.values(), allow_unused=True), strict=True)
    )
    untouched = {name for name, gradient in found.items() if gradient is None}
    assert untouched == {n for n in parameters if n.startswith(("ctc.", "decoder.output_layer."))}
    for part in ("encoder.encoders", "decoder.embed", "decoder.decoders", "decoder.after_norm"):
        assert any(g.abs().max() > 0 for n, g in found.items() if n.startswith(part)), part


def test_half_precision(make_method, one_step):
    """Under bf16 autocast the head is fp32's, and λ = 0 is the control to the bit."""
    method = make_method()
    method.train()
    control = JointMethod(method.model, method.updaters["model"])
    seen = []
    method.head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    found = []
    for part in (
        control.joint_part,
        lambda m: method.transfer_part(m, 0.0),
        lambda m: method.transfer_part(m, 1.0),
    ):
        method.model.zero_grad()
        for micro in one_step.micro_batches():
            micro.seed("model")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = part(micro).loss
            assert loss.isfinite()
            loss.backward()
        found.append({n: p.grad.clone() for n, p in method.model.named_parameters()})
    plain, zero, one = found
    assert set(seen) == {(torch.float32, torch.float32)}
    assert all(torch.equal(zero[name], value) for name, value in plain.items())
    assert any(not torch.equal(one[name], value) for name, value in plain.items())


@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_micro_batches_change_nothing(make_method, one_step, speech, loss_norm):
    """However a step is cut, for memory or over processes, its gradient is the same."""
    method = make_method(loss_norm)
    method.train(False)
    found = []
    halves = speech.split()
    for cut in ([speech], halves, [halves[0], *halves[1].split()]):
        micro = [MicroBatch(batch, one_step.step.totals, None) for batch in cut]
        found.append({n: g.clone() for n, g in gradients(method, micro, 0.5).items()})
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_with_an_empty_transcript(make_method, make_store, write_text, fake_teacher, make_batch):
    """Its <eos> alone has a target."""
    rows = {"utt0": "", "utt1": "ace"}
    path = write_text("empty/text", rows)
    method = make_method()
    method.targets = Targets(make_store([path], fake_teacher, folder="empty_targets"), [path], 9)
    loss = method.transfer_part(MicroBatch(make_batch(rows), Totals(2, 5, 0), [1, 2]), 0.5)
    loss.loss.backward()
    assert loss.loss.isfinite() and loss.figures["lm_distance"][1] == 5


def test_the_head_is_trained_with_an_updater_of_its_own(make_method, one_step):
    method = make_method(weight=1.0)
    before = [p.detach().clone() for p in method.head.parameters()]
    one_step.run(method, 1)
    assert all(not torch.equal(p, old) for p, old in zip(method.head.parameters(), before, strict=True))


def test_a_cosine_says_nothing_about_variance(make_method, one_step):
    for kind, there in (("cosine", False), ("l1", True)):
        figures = make_method(distance=kind).validate(one_step.micro_batches()[0])
        assert ("lm_r2" in figures) == there and "lm_distance" in figures and "lm_weight" not in figures


def test_heads():
    """`linear` is a linear map, `mlp` has one hidden layer halfway between both sizes, with a ReLU."""
    linear, mlp = EmbeddingHead(6, 2), EmbeddingHead(6, 2, "mlp")
    x = torch.randn(4, 6)
    torch.testing.assert_close(linear(x), x @ linear[0].weight.T + linear[0].bias)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(4, 6), (4,), (2, 4), (2,)]
    torch.testing.assert_close(mlp(x), mlp[2]((x @ mlp[0].weight.T + mlp[0].bias).clamp_min(0)))


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine"])
@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_value(make_method, one_step, kind, loss_norm):
    """Label by label, from the definition, and divided by what the joint loss is divided by."""
    method = make_method(loss_norm, distance=kind)
    method.train(False)
    for micro in one_step.micro_batches():
        output = method.model.outputs(**micro.batch.tensors, keys=micro.keys)
        targets = method.targets.batch(micro.batch)
        total = 0.0
        for row, length in enumerate(micro.batch.tensors["text_lengths"].tolist()):
            for u in range(length + 1):
                guess, right = method.head(output.decoder_hidden[row, u]), targets.values[row, u]
                if kind == "mse":
                    total += ((guess - right) ** 2).sum() / 3
                elif kind == "l1":
                    total += (guess - right).abs().sum() / 3
                else:
                    total += 1 - (guess @ right) / (guess.norm() * right.norm())
        denominator = (
            4 if loss_norm == "utterance" else int(sum(len(t) + 1 for t in ("bad cab", "ace", "e", "dad")))
        )
        joint = method.joint_loss(output, micro)
        loss = method.transfer_part(micro, 0.5)
        torch.testing.assert_close(loss.loss, joint + 0.5 * total / denominator, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss.figures["lm_distance"][0], total.detach(), rtol=1e-5, atol=1e-6)
        assert ("lm_r2" in loss.figures) == (kind != "cosine")


def test_padding_and_labels_without_target_get_no_gradient(make_method):
    """K11: nothing flows to a state behind <eos>, or to one whose label has no embedding."""
    method = make_method()
    hidden = torch.randn(2, 4, 16, requires_grad=True)
    there = torch.tensor([[True, True, False, True], [True, True, False, False]])
    values = torch.randn(2, 4, 3).masked_fill(~there[..., None], 0.0)
    output = ASROutput(None, None, None, None, None, None, 0, 0, hidden)
    total, figures = method.embedding_loss(output, TargetBatch(values, there))
    total.backward()
    assert hidden.grad[~there].eq(0).all() and hidden.grad[there].abs().amax(-1).gt(0).all()
    assert figures["lm_distance"][1] == 5


def test_r2_of_the_mean_is_zero_and_of_the_truth_one():
    from espnet_ext.lm_transfer.distances import explained

    target = torch.randn(500, 4)
    target = (target - target.mean(0)) / target.std(0, correction=0)
    for prediction, expected in ((torch.zeros_like(target), 0.0), (target, 1.0), (target / 2, 0.75)):
        good, total = explained(prediction, target)
        assert float(good / total) == pytest.approx(expected, abs=1e-6)


def test_schedule(make_method, one_step):
    """The weight grows to its full size behind the warm-up, and is 0 in the last part of the training."""
    options = TransferOptions(weight=0.4, warmup=3, stop=0.75)
    weights = [options.weight_at(step, 20) for step in range(20)]
    assert weights[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert weights[5:15] == [0.4] * 10 and weights[15:] == [0.0] * 5
    assert TransferOptions(weight=0.4).weight_at(0, 20) == 0.4
    # 1.0 is never: passes over the data may have a few more steps than the first.
    assert TransferOptions(weight=0.4).weight_at(25, 20) == 0.4
    assert TransferOptions(weight=0.4, stop=0.0).weight_at(0, 20) == 0.0
    # By the step of the training, not of the epoch.
    turn = make_method(weight=0.4, warmup=3).turns(Position(epoch=2, step_in_epoch=0, step=2))[0]
    assert turn.parts[0].loss.keywords["weight"] == pytest.approx(0.3)
    figures = one_step.run(make_method(weight=0.4, warmup=3), 4)
    assert [f["lm_weight"][0] / f["lm_weight"][1] for f in figures] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.slow
def test_it_is_learned(make_method, one_step):
    """The distance falls when it is trained, and the head alone does not explain it."""
    figures = one_step.run(make_method(weight=1.0, head="mlp", lr=0.02), 60)
    first, last = (float(f["lm_distance"][0] / f["lm_distance"][1]) for f in (figures[0], figures[-1]))
    assert last < 0.5 * first
    assert float(figures[-1]["lm_r2"][0] / figures[-1]["lm_r2"][1]) > 0.5


@pytest.mark.parametrize("shift, least, most", [(0, 0.95, 1.001), (1, -1.0, 0.1)])
def test_the_trained_head_explains_held_out_sentences(
    make_method, tokenizer, write_text, make_store, fake_teacher, make_batch, shift, least, most
):
    """K12: on states that know their label a head is trained, and explains the embeddings of other sentences.

    With each label's embedding exchanged for the next one's it explains nothing: letters are drawn.
    """
    draw = random.Random(0)
    sentences = ["".join(draw.choice("abcde") for _ in range(8)) for _ in range(40)]
    seen, unseen = (
        {f"utt{i:02d}": text for i, text in enumerate(part)} for part in (sentences[:30], sentences[30:])
    )
    store = make_store([write_text("seen", seen), write_text("unseen", unseen)], fake_teacher)
    method = make_method()
    knows = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))

    def loss(rows: dict[str, str], name: str):
        text = torch.tensor([[*tokenizer.encode(each), 8] for each in rows.values()])
        targets = Targets(store, [write_text(name, rows)], 9, shift=shift).batch(make_batch(rows))
        targets.values[..., 0] = 0.0  # the place in the sentence, which the state does not know
        output = ASROutput(None, None, None, None, None, None, 0, 0, knows[text])
        return method.embedding_loss(output, targets)

    optimizer = torch.optim.Adam(method.head.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(seen, "seen")[0].backward()
        optimizer.step()
    with torch.no_grad():
        good, total = loss(unseen, "unseen")[1]["lm_r2"]
    assert least < float(good / total) < most
