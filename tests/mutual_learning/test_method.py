"""The method: K trainings at weight zero, only its own loss moves a peer, a teacher is distillation."""

import copy
import dataclasses

import pytest
import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.ramp import Ramp
from espnet_ext.asr.sampled import SampledMethod, Sampling
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.losses import mutual_sum, posteriors
from espnet_ext.mutual_learning.method import MutualMethod
from espnet_ext.mutual_learning.options import MutualOptions
from espnet_ext.train.method import Position

START = Position(1, 0, 0)


def later(step: int) -> Position:
    """The first step of a later epoch: what grows or rotates goes by the steps of the whole training."""
    return Position(3, 0, step)


def options(weight: float = 0.5, **others) -> MutualOptions:
    return MutualOptions(Ramp(weight), **others)


def sampling(probability: float = 0.5, **others) -> Sampling:
    return Sampling(Ramp(probability), **others)


def assert_same(one: dict, other: dict) -> None:
    """Equal to the bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def gradients(method, loss, name: str = "peer1") -> dict[str, torch.Tensor]:
    """Gradient of a part's loss at every parameter of a peer that has one."""
    for module in method.modules.values():
        module.zero_grad(set_to_none=True)
    loss.loss.backward()
    return {n: p.grad.clone() for n, p in method.modules[name].named_parameters() if p.grad is not None}


def part_loss(method, micro, learners=None, position=START):
    """Loss of a step's micro-batch as the loop asks for it."""
    method.train()
    micro.seed("model")
    return method.mutual_part(position, learners or method.trained, micro)


# Weight zero is the control.


@pytest.mark.parametrize("probability", [None, 0.5])
def test_weight_zero_is_k_trainings_of_their_own(
    make_peer, make_updater, run_steps, everything, probability
):  # M1
    own = None if probability is None else sampling(probability, history="own")
    peers = [make_peer("peer1", 1), make_peer("peer2", 2), make_peer("peer3", 3, size=24)]
    alone = [copy.deepcopy(peer.model) for peer in peers]
    method = MutualMethod(peers, options(0.0, sampling=own), seed=1)
    update = run_steps(method, seed=1, steps=20)[0]
    for peer, model in zip(peers, alone, strict=True):
        updater = make_updater(model)
        control = SampledMethod(model, updater, sampling=own) if own else JointMethod(model, updater)
        single = run_steps(control, seed=peer.seed, steps=20)[0]
        assert_same(everything(peer.model, peer.updater), everything(model, updater))
        figures = update.figures
        assert figures[f"loss_{peer.name}"][0] == single.figures["loss"][0]
        assert figures[f"acc_{peer.name}"] == single.figures["acc"]
        assert figures[f"loss_att_mutual_{peer.name}"][0] > 1  # the branch ran all the same


@pytest.mark.parametrize("weight", [1e-3, 1.0])
def test_weight_adds_that_much_of_the_branch_s_gradient(make_peer, make_micro, weight):
    method = MutualMethod(
        [make_peer("peer1", 1), make_peer("peer2", 2)], options(0.0, full_hard=True), seed=1
    )
    control = gradients(method, part_loss(method, make_micro()))
    method.options = options(weight, full_hard=True)
    found = gradients(method, part_loss(method, make_micro()))
    # The branch alone, of the same forward passes.
    beliefs = method._beliefs(START, method.trained, make_micro())
    output = beliefs["peer1"].output
    total = mutual_sum(output.decoder_out, [beliefs["peer2"].labels], output.targets != -1)
    scale = (1 - method.peers[0].model.ctc_weight) / 4
    model = method.peers[0].model
    names = [name for name in found if not name.startswith("ctc.")]
    parameters = dict(model.named_parameters())
    branch = torch.autograd.grad(total * scale, [parameters[name] for name in names])
    # The distance of all parameters together: the gradient of some, as keys' biases, is rounding alone.
    pieces = [(found[n] - control[n] - weight * g, weight * g) for n, g in zip(names, branch, strict=True)]
    error, added = (torch.cat([piece[k].flatten() for piece in pieces]).norm() for k in (0, 1))
    assert error <= 1e-6 * torch.cat([control[name].flatten() for name in names]).norm()
    assert error <= 0.01 * added


def test_one_peer_without_sampling_is_the_control(make_peer, make_updater, run_steps, everything):  # M2
    peer = make_peer()
    model, other = copy.deepcopy(peer.model), copy.deepcopy(peer.model)
    updater, another = make_updater(model), make_updater(other)
    run_steps(JointMethod(peer.model, peer.updater))
    run_steps(SampledMethod(model, updater))
    assert_same(everything(peer.model, peer.updater), everything(model, updater))
    run_steps(SampledMethod(other, another, sampling=sampling(0.0)))  # two passes, and nothing replaced
    assert_same(everything(peer.model, peer.updater), everything(other, another))


def test_sampling_changes_the_control_and_its_probability_grows(make_peer, run_steps):
    peer = make_peer()
    model = copy.deepcopy(peer.model)
    grows = Sampling(Ramp(0.6, start=1, steps=3))
    method = SampledMethod(peer.model, peer.updater, sampling=grows)
    shown = [method.after_step(later(step))["sampling"][0] for step in range(6)]
    assert shown == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.6])
    run_steps(method, steps=2)
    plain = JointMethod(model, make_peer().updater)
    assert plain.after_step(START) == {}
    assert SampledMethod(model, peer.updater).after_step(START) == {}


# Who learns from what.


def test_a_peer_s_loss_moves_nobody_else(make_peer, make_micro):  # M3
    method = MutualMethod([make_peer("peer1", 1), make_peer("peer2", 2)], options(), seed=1)
    alone = gradients(method, part_loss(method, make_micro(), method.trained[:1]))
    assert all(p.grad is None for p in method.modules["peer2"].parameters())
    # And in the joint loss of both each has the gradient that it has alone.
    assert_same(gradients(method, part_loss(method, make_micro())), alone)


def test_ctc_takes_part_on_request_only(make_peer, make_micro):
    method = MutualMethod([make_peer("peer1", 1), make_peer("peer2", 2)], options(0.0), seed=1)
    head = "ctc.ctc_lo.weight"
    control = gradients(method, part_loss(method, make_micro()))[head]
    method.options = options(0.5)
    assert torch.equal(gradients(method, part_loss(method, make_micro()))[head], control)
    method.options = options(0.5, ctc=True)
    loss = part_loss(method, make_micro())
    found = gradients(method, loss)[head]
    assert not torch.equal(found, control)
    # Frame by frame, from the definition; the head alone, whose gradient is linear in its output.
    beliefs = method._beliefs(START, method.trained, make_micro())
    mine, other = beliefs["peer1"], beliefs["peer2"]
    expected = 0.0
    for row, frames in enumerate(mine.output.encoder_out_lens.tolist()):
        p = torch.log_softmax(mine.ctc_scores[row, :frames], -1)
        q = torch.softmax(other.ctc_scores[row, :frames], -1)
        expected = expected - (q * p).sum()
    assert loss.figures["loss_ctc_mutual_peer1"][0].item() == pytest.approx(expected.item(), rel=1e-5)
    weight = method.peers[0].model.ctc_weight
    gradient = torch.autograd.grad(expected * weight / 4, method.peers[0].model.ctc.ctc_lo.weight)[0]
    torch.testing.assert_close(found, 0.5 * control + 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_temperature_form_and_full_weight_hold_for_both_branches(make_peer, make_micro):
    own = options(0.5, temperature=2.0, form="kl", ctc=True, full_hard=True)
    method = MutualMethod([make_peer("peer1", 1), make_peer("peer2", 2)], own, seed=1)
    loss = part_loss(method, make_micro())
    beliefs = method._beliefs(START, method.trained, make_micro())
    mine, other = beliefs["peer1"], beliefs["peer2"]
    inside = mine.output.targets != -1
    frames = torch.arange(mine.ctc_scores.size(1)) < mine.output.encoder_out_lens[:, None]
    figures = {name: float(total) for name, (total, _) in loss.figures.items()}
    for branch, keep, ours, theirs in (
        ("att", inside, mine.output.decoder_out, other.output.decoder_out),
        ("ctc", frames, mine.ctc_scores, other.ctc_scores),
    ):
        p, q = (torch.softmax(scores[keep].double() / 2, -1) for scores in (ours, theirs))
        divergence = 4 * (q * (q / p).log()).sum()
        assert figures[f"loss_{branch}_mutual_peer1"] == pytest.approx(divergence.item(), rel=1e-4)
    att, ctc = (figures[f"loss_{b}_peer1"] + 0.5 * figures[f"loss_{b}_mutual_peer1"] for b in ("att", "ctc"))
    assert figures["loss_peer1"] == pytest.approx(0.3 * ctc + 0.7 * att, rel=1e-5)


def test_identical_peers_remain_identical(make_peer, run_steps, everything):  # M5
    peers = [make_peer("peer1", 1), make_peer("peer2", 1)]
    method = MutualMethod(peers, options(0.5, form="kl"), seed=1)
    update = run_steps(method, steps=4)[0]
    assert_same(*(everything(peer.model, peer.updater) for peer in peers))
    for peer in peers:
        total, utterances = update.figures[f"loss_att_mutual_{peer.name}"]
        assert abs(total) / utterances < 1e-5


@pytest.mark.parametrize("history", [None, "own", "shared"])
def test_order_of_the_peers_does_not_matter(make_peer, run_steps, everything, history):  # M6
    results = []
    for order in ((0, 1, 2), (2, 0, 1)):
        peers = [make_peer(f"peer{number + 1}", number + 1) for number in range(3)]
        own = sampling(0.5, history=history) if history else None
        run_steps(MutualMethod([peers[number] for number in order], options(sampling=own), seed=1))
        results.append([everything(peer.model, peer.updater) for peer in peers])
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_sequential_update_sees_the_peers_before_it_updated(make_peer, run_steps, everything):  # M6
    after = {}
    for sequential in (False, True):
        peers = [make_peer("peer1", 1), make_peer("peer2", 2)]
        updates = run_steps(MutualMethod(peers, options(sequential=sequential), seed=1), steps=1)
        assert len(updates) == 1 + sequential
        after[sequential] = [everything(peer.model, peer.updater) for peer in peers]
    assert_same(after[False][0], after[True][0])  # the first one has seen the same
    weight = "decoder.output_layer.weight"
    assert not torch.equal(after[False][1][weight], after[True][1][weight])


def test_frozen_peer_is_distillation(make_peer, make_updater, batch, run_steps, make_micro, everything):  # M7
    weight, steps = 0.3, 3
    student, teacher = make_peer("peer1", 1, dropout=0.0), make_peer("peer2", 2, size=24, frozen=True)
    own = copy.deepcopy(student.model)
    before = copy.deepcopy(teacher.model.state_dict())
    method = MutualMethod([student, teacher], options(weight), seed=1)
    assert method.modules.keys() == method.updaters.keys() == method.nbest().keys() == {"peer1"}
    run_steps(method, steps=steps)
    assert_same(dict(teacher.model.state_dict()), before)
    # (ESPnet's constructors have activations as default values, so that all models share those modules.)
    dropouts = [module for module in teacher.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts and not any(module.training for module in dropouts)
    # Distillation from posteriors that were written down beforehand, from clean speech.
    with torch.no_grad():
        stored = torch.softmax(teacher.model.outputs(**batch).decoder_out, -1)
    updater = make_updater(own)
    for _ in range(steps):
        own.train()
        output = own.outputs(**batch, keys=make_micro().keys)
        logp = torch.log_softmax(output.decoder_out, -1)
        keep = (output.targets != -1)[..., None]
        soft = -(stored * logp * keep).sum()
        att = (1 - weight) * output.att_sum + weight * soft
        loss = 0.3 * output.ctc_sum / 4 + 0.7 * att / 4
        updater.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        updater.optimizer.step()
        updater.scheduler.step()
    for name, expected in own.state_dict().items():
        torch.testing.assert_close(student.model.state_dict()[name], expected, rtol=1e-4, atol=1e-6)


def test_another_teacher_after_an_interruption_is_refused(make_peer):
    method = MutualMethod([make_peer("peer1", 1), make_peer("peer2", 2, frozen=True)], options())
    state = method.state()
    method.load_state(state)
    other = MutualMethod([make_peer("peer1", 1), make_peer("peer2", 3, frozen=True)], options())
    with pytest.raises(UserError, match="peer2: the teacher's parameters are not those"):
        other.load_state(state)


# Randomness, histories, normalisation.


def heard(method, micro, position=START) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What each peer's encoder hears and its decoder reads in the last pass, (B, T, D) and (B, U)."""
    found: dict[str, list] = {}
    hooks = []
    for peer in method.peers:
        for part, place in ((peer.model.encoder, 0), (peer.model.decoder.embed, 1)):
            saved = found.setdefault(peer.name, [None, None])
            hooks.append(
                part.register_forward_pre_hook(
                    lambda _, arguments, saved=saved, place=place: saved.__setitem__(place, arguments[0])
                )
            )
    part_loss(method, micro, position=position)
    for hook in hooks:
        hook.remove()
    return {name: tuple(each) for name, each in found.items()}


def test_masks_are_shared_or_of_each_peer_s_own(make_peer, make_micro):
    peers = [make_peer("peer1", 1), make_peer("peer2", 2), make_peer("peer3", 3, frozen=True)]
    control = make_peer("peer1", 2)
    speech = {
        shared: heard(MutualMethod(peers, options(shared_masks=shared), seed=1), make_micro())
        for shared in (0, 1)
    }
    features = {shared: [sounds for sounds, _ in each.values()] for shared, each in speech.items()}
    clean = features[0][2]  # a teacher hears everything
    unmasked = MutualMethod(peers, options(shared_masks=True), seed=1)
    silence = heard(unmasked, dataclasses.replace(make_micro(), keys=None))
    assert all(torch.equal(clean, sounds) for sounds, _ in silence.values())
    assert not torch.equal(features[0][0], clean) and not torch.equal(features[0][0], features[0][1])
    assert all(torch.equal(features[1][0], each) for each in features[1])
    assert torch.equal(features[1][0], features[0][0])  # the training's own seed, in both ways
    single = MutualMethod([control, make_peer("peer2", 1)], options(), seed=2)
    assert torch.equal(heard(single, make_micro(seed=2))["peer1"][0], features[0][1])


def test_histories_are_shared_in_turn_or_own(make_peer, make_micro):
    peers = [make_peer("peer1", 1), make_peer("peer2", 2), make_peer("peer3", 3, frozen=True)]
    micro = make_micro()
    text = micro.batch.tensors["text"]
    read = {}
    for history in ("own", "shared"):
        method = MutualMethod(peers, options(sampling=sampling(history=history)), seed=1)
        for step in range(3):
            found = heard(method, micro, later(step))
            read[history, step] = [labels for _, labels in found.values()]
    first, second, teacher = read["own", 0]
    assert not torch.equal(first, second)
    assert torch.equal(teacher[:, 1:].where(text != -1, text), text)  # the teacher reads the transcript
    for step in range(3):
        assert all(torch.equal(read["shared", step][0], each) for each in read["shared", step])
    # Whose history it is: the first peer's at step 0 and 2, the second one's at step 1.
    assert torch.equal(read["shared", 0][0], first)
    assert torch.equal(read["shared", 1][0], read["own", 1][1])
    assert not torch.equal(read["shared", 1][0], read["own", 1][0])


def test_draws_are_own_where_masks_are_shared(make_peer, make_micro):
    peers = [make_peer(f"peer{seed}", seed, start=1, dropout=0.0) for seed in (1, 2)]
    own = options(shared_masks=True, sampling=sampling(history="own"))
    (sounds, first), (others, second) = heard(MutualMethod(peers, own, seed=1), make_micro()).values()
    assert torch.equal(sounds, others) and not torch.equal(first, second)


def test_history_follows_the_warm_up_and_the_draw(make_peer, make_micro):
    peers = [make_peer("peer1", 1, dropout=0.0), make_peer("peer2", 2, dropout=0.0)]
    micro = make_micro()
    text, first = micro.batch.tensors["text"], peers[0].model
    with torch.no_grad():  # <sos/eos> and the blank are what it likes best, and no history holds them
        first.decoder.output_layer.bias[[first.sos, first.blank_id]] += 20.0

    def read(method, step: int, seed: int = 1) -> torch.Tensor:
        """What the first peer's decoder reads after <sos>, in the labels' places."""
        seen = []
        hook = first.decoder.embed.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
        method.train()
        (turn,) = method.turns(later(step))
        turn.parts[0].loss(make_micro(seed))
        hook.remove()
        return seen[-1][:, 1:].where(text != -1, text)

    for draw in ("sample", "argmax"):
        late = Sampling(Ramp(1.0, start=2), draw, "own")
        single = SampledMethod(first, peers[0].updater, sampling=late)
        for method in (MutualMethod(peers, options(sampling=late), seed=1), single):
            assert torch.equal(read(method, 1), text)
            written = read(method, 2)
            assert not torch.equal(written, text)
            assert not torch.isin(written, torch.tensor([first.sos, first.blank_id])).any()
        # Other random numbers: other samples, and the same best token. (Masks would change what it hears.)
        first.keyed_specaug = None
        assert torch.equal(read(single, 2), read(single, 2, seed=7)) == (draw == "argmax")


@pytest.mark.parametrize("loss_norm", ["utterance", "token"])
def test_accumulation_and_normalisation(make_peer, make_micro, batch, run_steps, loss_norm):
    own = sampling(0.5, history="own")
    results = []
    for pieces in (1, 2):
        peers = [make_peer(f"peer{seed}", seed, dropout=0.0) for seed in (1, 2)]
        method = MutualMethod(peers, options(0.4, sampling=own), seed=1, loss_norm=loss_norm)
        for peer in peers:
            peer.updater.optimizer = torch.optim.SGD(peer.model.parameters(), lr=0.1)
            peer.updater.scheduler = None
        update = run_steps(method, steps=1, pieces=pieces)[0]
        results.append((peers, update.figures))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        for name, parameter in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], parameter, rtol=1e-4, atol=1e-6)
    for name, (total, weight) in results[0][1].items():
        assert float(results[1][1][name][0]) == pytest.approx(float(total), rel=1e-4)
        assert results[1][1][name][1] == weight
    # The mutual term has the hard term's denominator.
    method = MutualMethod(results[0][0], options(0.4), seed=1, loss_norm=loss_norm)
    loss = part_loss(method, make_micro(), method.trained[:1])
    labels = int(batch["text_lengths"].sum()) + 4
    figures = {name: float(total) for name, (total, _) in loss.figures.items()}
    att = 0.6 * figures["loss_att_peer1"] + 0.4 * figures["loss_att_mutual_peer1"]
    expected = (0.3 * figures["loss_ctc_peer1"] + 0.7 * att) / (labels if loss_norm == "token" else 4)
    assert loss.loss.item() == pytest.approx(expected, rel=1e-5)
    total, weight = loss.figures["loss_peer1"]  # what is logged is the quotient, of this micro-batch the loss
    assert weight == (labels if loss_norm == "token" else 4)
    assert float(total) / weight == pytest.approx(expected, rel=1e-5)


def test_weight_warms_up(make_peer, make_micro):
    method = MutualMethod(
        [make_peer("peer1", 1), make_peer("peer2", 2)], MutualOptions(Ramp(0.4, start=2, steps=4)), seed=1
    )
    grows = dataclasses.replace(method.options, sampling=Sampling(Ramp(0.6, start=1, steps=3)))
    both = MutualMethod(method.peers, grows, seed=1)
    sampled = [both.after_step(later(step))["sampling"][0] for step in (0, 1, 2, 9)]
    assert sampled == pytest.approx([0, 0, 0.2, 0.6])
    shown = [method.after_step(later(step))["mutual_weight"][0] for step in (0, 2, 4, 6, 9)]
    assert shown == pytest.approx([0, 0, 0.2, 0.4, 0.4])
    losses = {step: part_loss(method, make_micro(), position=later(step)) for step in (0, 4)}
    for peer in ("peer1", "peer2"):
        figures = {name: float(total) for name, (total, _) in losses[4].figures.items()}
        att = 0.8 * figures[f"loss_att_{peer}"] + 0.2 * figures[f"loss_att_mutual_{peer}"]
        expected = 0.3 * figures[f"loss_ctc_{peer}"] + 0.7 * att
        assert figures[f"loss_{peer}"] == pytest.approx(expected, rel=1e-5)
    assert losses[0].loss.item() != losses[4].loss.item()


# Validation.


def test_validation_figures(make_peer, make_micro, batch):
    peers = [make_peer("peer1", 1), make_peer("peer2", 2), make_peer("peer3", 3, frozen=True)]
    method = MutualMethod(peers, options(sampling=sampling(1.0), temperature=2.0), seed=1)
    method.train(False)
    micro = dataclasses.replace(make_micro(), keys=None)
    with torch.no_grad():
        figures = method.validate(micro)
        outputs = [peer.model.outputs(**batch) for peer in peers[:2]]
    keep = outputs[0].targets != -1
    probabilities = [posteriors(output.decoder_out)[keep] for output in outputs]
    right, labels = outputs[0].targets[keep], int(keep.sum())
    for peer, output, p in zip(peers, outputs, probabilities, strict=False):
        assert figures[f"acc_{peer.name}"] == (output.correct, labels)
        surest, count = figures[f"max_posterior_{peer.name}"]  # what it would say, at no temperature
        assert surest.item() == pytest.approx(p.amax(-1).sum().item()) and count == labels
        hard = peer.model.joint_loss(output, 4) * 4  # no mutual term, no sampled history
        assert figures[f"loss_{peer.name}"][0].item() == pytest.approx(hard.item())
    assert figures["acc"] == (sum(output.correct for output in outputs), 2 * labels)
    mean = (probabilities[0] + probabilities[1]) / 2
    assert figures["acc_ensemble"] == ((mean.argmax(-1) == right).sum(), labels)
    p, q = probabilities
    divergence = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    assert figures["kl"][0].item() == pytest.approx(divergence.item(), rel=1e-4)
    assert figures["kl"][1] == labels
    agreed = sum(int(p.argmax() == q.argmax()) for p, q in zip(*probabilities, strict=True))
    assert figures["agreement"] == (agreed, labels) and 0 < agreed < labels
    assert not any("peer3" in name for name in figures)


def test_each_peer_s_best_epochs_go_by_its_own_figures(make_peer):
    peers = [make_peer("peer1", 1), make_peer("peer2", 2)]
    best = MutualMethod(peers, options(), (("valid", "acc", "max"), ("valid", "loss", "min"))).nbest()
    assert best["peer2"].module == "peer2"
    assert best["peer2"].criteria == (("valid", "acc_peer2", "max"), ("valid", "loss_peer2", "min"))
    assert best.keys() == {"peer1", "peer2"}
