"""One-best-path distillation: the path itself, and what its loss is zero for."""

import itertools

import pytest
import torch

from espnet_ext.distillation.path import (
    best_emissions,
    greedy_emissions,
    node_scores,
    path_divergence,
    path_nodes,
    shifted,
)
from tests.distillation.conftest import build_transducer


def batch(seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor([4, 2, 0])
    text = torch.randint(1, 8, (3, 4), generator=draw).masked_fill(torch.arange(4) >= labels[:, None], -1)
    return {
        "speech": torch.randn(3, 12000, generator=draw),
        "speech_lengths": torch.tensor([12000, 9000, 5000]),
        "text": text,
        "text_lengths": labels,
    }


def output_of(model, **changes):
    with torch.no_grad():
        return model.eval().outputs(**batch() | changes)


def model_of(seed=1, **options):
    model = build_transducer(seed, **options)
    with torch.no_grad():
        for parameter in model.joint_network.parameters():
            torch.nn.init.normal_(parameter, std=1.5)  # scores that differ
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["greedy", "best"])
def test_path_is_valid(seed, kind):
    """Y10: from (0, 0) by blanks and next labels to (T - 1, U); no blank leaves the last frame too early."""
    model = model_of(seed)
    output = output_of(model)
    emissions = greedy_emissions(model.joint_network, output) if kind == "greedy" else None
    emissions = best_emissions(model, output) if emissions is None else emissions
    frames, labels = output.encoder_out_lens.long(), output.target_lens.long()
    nodes = path_nodes(emissions, frames, labels)
    for row in range(3):
        t, u = int(frames[row]), int(labels[row])
        path = list(zip(nodes.frame[row].tolist(), nodes.label[row].tolist(), strict=True))[
            : int(nodes.there[row].sum())
        ]
        assert len(path) == t + u and path[0] == (0, 0) and path[-1] == (t - 1, u)
        for (a, b), (c, d) in itertools.pairwise(path):
            assert (c, d) in ((a + 1, b), (a, b + 1))
        assert sum(d > b for (_, b), (_, d) in itertools.pairwise(path)) == u


def test_greedy_takes_the_likelier(monkeypatch):
    """At every node where both are possible: the larger of the two scores; the best path is no worse."""
    model = model_of()
    output = output_of(model)
    frames, labels = output.encoder_out_lens.long(), output.target_lens.long()
    nodes = path_nodes(greedy_emissions(model.joint_network, output), frames, labels)
    scores = node_scores(model.joint_network, output.encoder_out, output.predictor_out, nodes)
    choices = set()
    for row in range(3):
        for n in range(int(nodes.there[row].sum()) - 1):
            t, u = int(nodes.frame[row, n]), int(nodes.label[row, n])
            emitted = int(nodes.label[row, n + 1]) > u
            if u < labels[row] and t < frames[row] - 1:
                expected = bool(scores[row, n, output.targets[row, u]] > scores[row, n, 0])
                assert emitted == expected
                choices.add(emitted)
    assert choices == {True, False}

    def weight(emissions):
        nodes = path_nodes(emissions, frames, labels)
        scores = node_scores(model.joint_network, output.encoder_out, output.predictor_out, nodes)
        logp, total = scores.log_softmax(-1), torch.zeros(3)
        for row in range(3):
            last = int(nodes.there[row].sum()) - 1
            for n in range(last + 1):
                u = int(nodes.label[row, n])
                emits = n < last and int(nodes.label[row, n + 1]) > u
                total[row] += logp[row, n, output.targets[row, u] if emits else 0]
        return total

    best, greedy = (
        weight(best_emissions(model, output)),
        weight(greedy_emissions(model.joint_network, output)),
    )
    assert (best >= greedy - 1e-4).all()


def test_best_is_the_most_probable():
    """Of all alignments of an utterance of two labels, which likes blanks, so that labels come late."""
    model = model_of(2)
    with torch.no_grad():
        model.joint_network.lin_out.bias[0] += 6
        output = output_of(model)
        scores = model.joint_network(output.encoder_out[:, :, None], output.predictor_out[:, None])
    logp, frames = scores[1].log_softmax(-1), int(output.encoder_out_lens[1])
    one, two = output.targets[1, :2].tolist()

    def weight(path):
        blanks = sum(logp[t, sum(e <= t for e in path), 0] for t in range(frames))
        return float(blanks + logp[path[0], 0, one] + logp[path[1], 1, two])

    best = max(itertools.combinations_with_replacement(range(frames), 2), key=weight)
    assert tuple(best_emissions(model, output)[1, :2].tolist()) == best and best[1] > 2


def divergence(student, teacher, temperature=1.0, shift=0, per_node=False):
    theirs = output_of(teacher)
    ours = student.eval().outputs(**batch())
    nodes = path_nodes(
        greedy_emissions(teacher.joint_network, theirs),
        theirs.encoder_out_lens.long(),
        theirs.target_lens.long(),
    )
    own = shifted(nodes, shift, ours.encoder_out_lens)
    return path_divergence(
        node_scores(student.joint_network, ours.encoder_out, ours.predictor_out, own),
        node_scores(teacher.joint_network, theirs.encoder_out, theirs.predictor_out, nodes),
        own.there,
        temperature,
        per_node,
    )


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_scores_are_at_least_fp32(dtype, wanted):
    """What the joint network computes in bf16 is summed over nodes and tokens, which bf16 cannot."""
    model, nodes = model_of(), path_nodes(torch.tensor([[1, 3]]), torch.tensor([5]), torch.tensor([2]))
    sizes = model.joint_network.lin_enc.in_features, model.joint_network.lin_dec.in_features
    inputs = [torch.randn(1, n, size, dtype=dtype) for n, size in zip((5, 3), sizes, strict=True)]
    assert node_scores(model.joint_network.to(dtype), *inputs, nodes).dtype == wanted


def test_no_gradient_from_oneself():
    """Y9: with the teacher as student the cross-entropy is the entropy, and its gradient zero."""
    model, other = model_of(1), model_of(2)
    for teacher, zero in ((model, True), (other, False)):
        model.zero_grad()
        divergence(model, teacher).sum().backward()
        largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
        assert (largest < 1e-5) == zero
    assert (divergence(other, model) > divergence(model, model) + 0.1).any()


def test_who_receives_gradient():
    """Encoder, prediction network and joint network of the student; nothing of the teacher."""
    model, teacher = model_of(1), model_of(2)
    divergence(model, teacher).sum().backward()
    parts = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert parts == {"encoder", "decoder", "joint_network"}
    assert all(p.grad is None for p in teacher.parameters())


def test_shift_and_temperature():
    """Shifted nodes lie later, and those beyond the end are dropped; temperature flattens both sides."""
    frames, labels = torch.tensor([5, 3]), torch.tensor([2, 1])
    nodes = path_nodes(torch.tensor([[1, 3], [2, 0]]), frames, labels)
    assert nodes.frame[0].tolist() == [0, 1, 1, 2, 3, 3, 4] and nodes.label[0].tolist() == [
        0,
        0,
        1,
        1,
        1,
        2,
        2,
    ]
    later = shifted(nodes, 2, frames)
    assert later.frame[0][later.there[0]].tolist() == [2, 3, 3, 4]
    assert later.label[0][later.there[0]].tolist() == [0, 0, 1, 1]
    assert later.there[1].sum() == 1
    model, teacher = model_of(1), model_of(2)
    flat = divergence(model, teacher, temperature=1000.0)
    count = output_of(model).encoder_out_lens + torch.tensor([4, 2, 0])
    torch.testing.assert_close(flat, count * torch.log(torch.tensor(9.0)), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        divergence(model, teacher, per_node=True), divergence(model, teacher) / count, rtol=1e-5, atol=0
    )


def test_temperature_divides_both():
    """By hand: -Σ softmax(z_teacher / τ) log softmax(z_student / τ), without τ²."""
    student, teacher = torch.tensor([[[1.0, -1.0, 0.5]]]), torch.tensor([[[3.0, 0.0, -2.0]]])
    found = path_divergence(student, teacher, torch.ones(1, 1, dtype=torch.bool), 2.0, False)
    left = (teacher[0, 0].double() / 2).exp()
    right = (student[0, 0].double() / 2).exp()
    expected = -(left / left.sum() * (right / right.sum()).log()).sum()
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-5)


def test_padding_changes_nothing():
    """A path and its divergence do not depend on the company."""
    model, teacher = model_of(1), model_of(2)
    together = divergence(model, teacher)
    output = output_of(teacher)
    row = 1
    alone = {k: v[row : row + 1] for k, v in batch().items()}
    alone["speech"], alone["text"] = alone["speech"][:, :9000], alone["text"][:, :2]
    single = output_of(teacher, **alone)
    assert torch.equal(
        greedy_emissions(teacher.joint_network, single)[0],
        greedy_emissions(teacher.joint_network, output)[row, :2],
    )
    ours = model.eval().outputs(**alone)
    nodes = path_nodes(
        greedy_emissions(teacher.joint_network, single), single.encoder_out_lens, single.target_lens
    )
    scores = [
        node_scores(m.joint_network, o.encoder_out, o.predictor_out, nodes)
        for m, o in ((model, ours), (teacher, single))
    ]
    found = path_divergence(*scores, nodes.there, 1.0, False)
    torch.testing.assert_close(found[0], together[row], rtol=1e-4, atol=1e-4)
