"""The turns: who learns from which loss, and that weight zero is the control."""

import copy

import pytest
import torch

from espnet_ext.gan.critic import Critic
from espnet_ext.gan.losses import critic_terms
from espnet_ext.gan.sequences import draw_mix, real_sequences
from espnet_ext.train.method import MicroBatch

QUIET = {
    f"{part}_conf": {"dropout_rate": 0.0, "positional_dropout_rate": 0.0} for part in ("encoder", "decoder")
}
ORDERS = pytest.mark.parametrize("order", ["fused", "paper"])


def everything(method, names=("model",)) -> dict[str, torch.Tensor]:
    """Parameters, buffers and optimiser state of modules, copied."""
    state = {}
    for name in names:
        state |= {f"{name}.{key}": value for key, value in method.modules[name].state_dict().items()}
        for index, slot in method.updaters[name].optimizer.state_dict()["state"].items():
            state |= {f"{name}.{index}.{key}": value for key, value in slot.items()}
    return copy.deepcopy(state)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def micro_of(data, number: int = 0, step: int = 0) -> MicroBatch:
    batch = data.batches[number][1]
    return MicroBatch(batch, data.totals, data.augment_keys(batch, 1), (step, number), (data.seed,))


@ORDERS
@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_weight_zero_is_the_control(make_method, data, train, monkeypatch, order, loss_norm):
    """G1: 20 steps with dropout, masks and two micro-batches, equal to the bit, and the critic took part."""
    calls = {"forward": 0, "backward": 0}
    real = Critic.forward

    def counting(self, sequences, lengths, statistics=None):
        calls["forward"] += 1
        if sequences.requires_grad and not sequences.is_leaf:  # the recogniser's turn
            sequences.register_hook(lambda _: calls.__setitem__("backward", calls["backward"] + 1))
        return real(self, sequences, lengths, statistics)

    control, stream = make_method("none", loss_norm), data(((0, 3), (3, 4)))
    train(control, stream, 20)
    monkeypatch.setattr(Critic, "forward", counting)
    method = make_method("gan", loss_norm, lambda_d=0.0, order=order, noise=0.1, critic_updates=2)
    fresh = copy.deepcopy(method.critic.state_dict())
    train(method, stream, 20)
    assert_equal(everything(method), everything(control))
    # A pass a micro-batch in the recogniser's turn, two an update of the critic; one backward for the health
    # figures, one for the update.
    assert calls == {"forward": 20 * 2 * (1 + 2 * 2), "backward": 20 * 2 * 2}
    assert not torch.equal(method.critic.score.weight, fresh["score.weight"])


CONFORMER = {
    "output_size": 16,
    "attention_heads": 2,
    "num_blocks": 1,
    "linear_units": 32,
    "cnn_module_kernel": 7,
}


def test_weight_zero_is_the_control_with_running_statistics(make_method, recogniser, data, train):
    """G1 for a Conformer: its BatchNorm sees one forward pass a step, whichever turn needs another."""
    states = []
    for kind, options in (("none", {}), ("gan", {"lambda_d": 0.0, "order": "paper"})):
        model = recogniser("espnet", encoder="conformer", encoder_conf=CONFORMER)
        method = make_method(kind, model=model, **options)
        train(method, data(((0, 3), (3, 4))), 3)
        states.append(everything(method))
    assert_equal(*states)
    counts = [value for name, value in states[0].items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 3 for count in counts)


@ORDERS
def test_the_gradient_is_the_controls_and_the_weighted_branchs(make_method, recogniser, data, order):
    """At weight 1e-3 the difference from the control's gradient is 1e-3 times the branch's own."""
    model = recogniser(augment=False).eval()
    control, micro = make_method("none", model=model), micro_of(data())
    method = make_method(model=model, lambda_d=1e-3, order=order)
    method.critic.score.weight.data *= 1000  # or the difference would drown in the rounding of the sum
    parameters = list(model.parameters())

    def gradient(loss) -> torch.Tensor:
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return torch.cat([g.flatten().double() for g in grads])

    plain = gradient(control.joint_part(micro).loss)
    both = gradient(method.recogniser_part(micro).loss)
    soft = method.soft_outputs(model.outputs(**micro.batch.tensors))
    scores, _ = method.critic(soft.fake, soft.lengths)
    branch = gradient(-scores.mean())
    assert branch.norm() > plain.norm()
    assert (both - plain - 1e-3 * branch).norm() < 1e-6 * plain.norm() < 1e-3 * (1e-3 * branch).norm()


@ORDERS
@pytest.mark.parametrize("updates", [1, 3])
def test_each_turn_moves_its_own(make_method, data, train, order, updates):
    """G2: nothing of the other side changes, by the bit, and nobody is left with a gradient."""
    method = make_method(order=order, critic_updates=updates, critic_conf={"norm": "batch"})
    sides = {"recogniser": "model", "critic": "critic"}
    state = {name: everything(method, (name,)) for name in sides.values()}
    turns = []

    def look(turn) -> None:
        turns.append(turn.name)
        mover = sides[turn.name.rstrip("12")]
        (other,) = set(sides.values()) - {mover}
        assert_equal(everything(method, (other,)), state[other])
        after = everything(method, (mover,))
        assert any(not torch.equal(after[name], state[mover].get(name)) for name in state[mover])
        state[mover] = after
        assert all(p.grad is None for module in method.modules.values() for p in module.parameters())

    train(method, data(), 2, look)
    critic = ["critic", "critic1", "critic2"][:updates]
    assert turns == 2 * (["recogniser", *critic] if order == "fused" else [*critic, "recogniser"])


def test_who_learns_from_the_adversarial_term(make_method, data):
    """G3: decoder and encoder (through the decoder), never the CTC layer, never the critic in this turn."""
    method = make_method(lambda_d=1.0)
    method.train()
    micro = micro_of(data())
    micro.seed("model")
    output = method.model.outputs(**micro.batch.tensors, keys=micro.keys)
    soft = method.soft_outputs(output)
    method.score_of(soft, micro, "recogniser")(soft.fake, soft.lengths).sum().backward()
    assert all(p.grad is None for p in method.model.ctc.parameters())
    for part in (method.model.encoder, method.model.decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())


def test_the_critics_loss_reaches_no_recogniser(make_method, data):
    for order in ("fused", "paper"):
        method = make_method(order=order)
        method.train()
        micro = micro_of(data())
        micro.seed("model")
        if order == "fused":
            micro.kept = method.recogniser_part(micro).kept
            assert not micro.kept.fake.requires_grad
        method.critic_part(micro).loss.backward()
        assert all(p.grad is None for p in method.model.parameters())
        assert all(p.grad is not None for p in method.critic.parameters())


def test_both_orders_judge_the_same_outputs(make_method, data, train, monkeypatch):
    """The critic's own forward pass (order: paper) draws the same dropout and masks as the recogniser's."""
    seen = {}
    for order in ("fused", "paper"):
        method = make_method(order=order, lr=0.0)
        kept = []
        part = method.critic_part

        def spy(micro, update=0, part=part, kept=kept):
            loss = part(micro, update)
            kept.append(loss.kept.fake)
            return loss

        monkeypatch.setattr(method, "critic_part", spy)
        method._turns = method._plan()
        train(method, data(((0, 3), (3, 4))), 2)
        seen[order] = kept
    assert len(seen["fused"]) == len(seen["paper"]) == 4
    for one, other in zip(seen["fused"], seen["paper"], strict=True):
        assert torch.equal(one, other)


def test_padding_reaches_no_score(make_method, recogniser, data):
    """G7, with the recogniser: what the decoder says behind an utterance's end changes neither turn."""
    method = make_method(critic_conf={"norm": "batch"})
    micro = micro_of(data())
    output = method.model.eval().outputs(**micro.batch.tensors)
    before = method.soft_outputs(output)
    padding = before.targets < 0
    assert padding.any()
    output.decoder_out = output.decoder_out.masked_fill(padding[..., None], 50.0)
    after = method.soft_outputs(output)
    assert torch.equal(before.fake, after.fake)
    assert torch.equal(before.lengths, micro.batch.tensors["text_lengths"] + 1)


@ORDERS
@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_micro_batches_change_memory_not_results(make_method, recogniser, data, train, order, loss_norm):
    """Without dropout, three micro-batches give the step that one gives, for recogniser and critic."""
    states = []
    for cuts in (((0, 4),), ((0, 2), (2, 3), (3, 4))):
        model = recogniser(**QUIET)
        options = {"lambda_d": 0.1, "noise": 0.2, "critic_updates": 2, "order": order}
        # Adam would blow rounding up where a gradient is zero by symmetry.
        method = make_method(model=model, loss_norm=loss_norm, lr=0.01, optimizer=torch.optim.SGD, **options)
        rows = train(method, data(cuts), 3)
        states.append((everything(method, ("model", "critic")), rows))
    (one, one_rows), (other, other_rows) = states
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-4, atol=1e-6), name
    for row, other_row in zip(one_rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, rel=1e-4)


def test_loss_and_figures_of_a_step(make_method, data, train):
    """What is logged, against the formulas."""
    method = make_method(lambda_d=0.2, critic_conf={"norm": "layer"})
    stream = data()
    micro = micro_of(stream)
    method.train()
    micro.seed("model")
    loss = method.recogniser_part(micro)
    soft = loss.kept
    figures = {name: float(a) / float(b) for name, (a, b) in loss.figures.items()}
    scores, _ = method.critic(soft.fake, soft.lengths)
    assert figures["score"] == pytest.approx(scores.mean().item(), rel=1e-5)
    assert figures["loss_adv"] == pytest.approx(-0.2 * scores.mean().item(), rel=1e-5)
    assert figures["loss"] + figures["loss_adv"] == pytest.approx(loss.loss.item(), rel=1e-5)
    peaks = [row[: int(length)].max(-1).values for row, length in zip(soft.fake, soft.lengths, strict=True)]
    assert figures["peak"] == pytest.approx(float(torch.cat(peaks).mean()), rel=1e-5)

    micro.kept = soft
    critic_loss = method.critic_part(micro)
    figures = {name: float(a) / float(b) for name, (a, b) in critic_loss.figures.items()}
    assert figures["critic_gap"] != 0
    expected = -0.2 * figures["critic_gap"] + 10 * figures["critic_penalty"]
    assert figures["critic_loss"] == pytest.approx(expected, rel=1e-4)
    assert critic_loss.loss.item() == pytest.approx(expected, rel=1e-4)


def test_gradient_norms_at_the_decoders_output(make_method, recogniser, data):
    """They are the mean over positions of the norm of what each loss sends to a position."""
    model = recogniser(augment=False).eval()
    method = make_method(model=model, lambda_d=0.5)
    micro = micro_of(data())
    figures = method.recogniser_part(micro).figures
    output = model.outputs(**micro.batch.tensors)
    soft = method.soft_outputs(output)
    labels = int(soft.lengths.sum())
    scores, _ = method.critic(soft.fake, soft.lengths)
    # The derivative of ESPnet's label smoothing, by hand: softmax minus the smoothed target.
    joint = 0.7 * (soft.fake - real_sequences(soft.targets, soft.fake.size(-1), 0.1))
    (adv,) = torch.autograd.grad(0.5 * scores.sum(), output.decoder_out)
    for name, gradient in (("grad_joint", joint), ("grad_adv", adv)):
        amount, weight = figures[name]
        assert weight == labels
        expected = gradient.detach().norm(dim=-1).sum() / labels
        assert amount.item() / weight == pytest.approx(expected.item(), rel=1e-4), name


def test_the_critic_computes_in_full_precision(make_method, data, monkeypatch):
    """Inside bf16 autocast, whatever the recogniser does: scores, slopes and penalty are fp32's."""
    seen = []
    real = Critic.forward

    def spy(self, sequences, lengths, statistics=None):
        out = real(self, sequences, lengths, statistics)
        seen.append((sequences.dtype, self.project(sequences).dtype, out[0].dtype))
        return out

    monkeypatch.setattr(Critic, "forward", spy)
    method, micro = make_method(lambda_d=1.0), micro_of(data())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.model.decoder.output_layer(torch.zeros(1, 16)).dtype == torch.bfloat16
        loss = method.recogniser_part(micro)
        micro.kept = loss.kept
        inside = method.critic_part(micro)
    outside = method.critic_part(micro)
    assert len(seen) == 5 and set(sum(seen, ())) == {torch.float32}
    assert torch.equal(inside.loss, outside.loss)
    for name, (amount, _) in inside.figures.items():
        assert torch.equal(amount, outside.figures[name][0]), name


def test_warm_up_of_lambda_d(make_method, data, train):
    """The recogniser's weight grows from 0; the critic's loss has the whole weight at once."""
    method = make_method(lambda_d=0.4, lambda_d_warmup=4, lr=0.0)
    rows = train(method, data(), 6)
    assert [row["lambda_d"] for row in rows] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert [row["loss_adv"] == 0 for row in rows] == [True] + 5 * [False]
    for row in rows:
        expected = -0.4 * row["critic_gap"] + 10 * row["critic_penalty"]
        assert row["critic_loss"] == pytest.approx(expected, rel=1e-4)


def test_short_utterances_are_left_to_the_joint_loss(make_method, recogniser, data):
    """Below `min_length` an utterance gives the critic nothing, and the others what they give without it."""
    model = recogniser(augment=False).eval()
    stream = data(shortest=1)
    micro = micro_of(stream)
    lengths = micro.batch.tensors["text_lengths"] + 1
    limit = int(lengths.median()) + 1
    assert (lengths < limit).any() and (lengths >= limit).any()
    method = make_method(model=model, lambda_d=1.0, min_length=limit)
    loss = method.recogniser_part(micro)
    soft = loss.kept
    assert torch.equal(soft.lengths, lengths * (lengths >= limit))
    whole, _ = method.critic(soft.fake, lengths)
    assert float(loss.figures["score"][0]) == pytest.approx(float(whole[lengths >= limit].sum()), rel=1e-5)
    micro.kept = soft
    figures = method.critic_part(micro).figures
    rows = lengths >= limit
    real = method.real_of(soft, micro, "critic 0")
    terms = critic_terms(
        lambda s, n: method.critic(s, n)[0],
        real[rows],
        soft.fake[rows],
        lengths[rows],
        draw_mix(micro.keys, "critic 0")[rows],
    )
    assert float(figures["critic_penalty"][0]) == pytest.approx(float(terms.penalty.sum()), rel=1e-5)
    assert float(figures["critic_gap"][0]) == pytest.approx(float((terms.real - terms.fake).sum()), rel=1e-4)


def test_every_update_of_the_critic_draws_other_points(make_method, data, train, monkeypatch):
    from espnet_ext.gan import method as module

    drawn = []
    monkeypatch.setattr(
        module,
        "draw_mix",
        lambda keys, purpose: drawn.append((tuple(keys), purpose)) or torch.zeros(len(keys)),
    )
    train(make_method(critic_updates=2), data(), 2)
    assert len(drawn) == len(set(drawn)) == 4


@pytest.mark.slow
def test_the_adversarial_term_does_not_stop_learning(make_method, recogniser, data, train):
    """G10: with the paper's weight the recogniser still learns 20 utterances by heart.

    ESPnet's label smoothing is a divergence: its floor is 0.
    """
    method = make_method(model=recogniser(augment=False, **QUIET), lr=4e-3, lambda_d=1e-4)
    rows = train(method, data(((0, 20),), 20), 300)
    assert rows[-1]["loss_att"] < 0.01 * rows[0]["loss_att"]
    assert rows[-1]["acc"] == 1.0
