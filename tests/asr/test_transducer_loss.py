"""The joint lattice group by group: same loss and gradients as all at once."""

import pytest
import torch
import torchaudio
from espnet2.asr_transducer.joint_network import JointNetwork

from espnet_ext.asr.transducer_loss import JointNodes, _RNNTLoss, joint_loss

FRAMES, LABELS = torch.tensor([7, 6, 3, 5]), torch.tensor([3, 4, 0, 2])
TARGETS = torch.tensor([[1, 2, 3, 0], [4, 4, 1, 2], [0, 0, 0, 0], [5, 1, 0, 0]])


class Losses:
    """A joint network with a head beside its output layer, and the inputs of both."""

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(0)
        self.joint = JointNetwork(6, 5, 4, joint_space_size=3).to(dtype)
        self.head = torch.nn.Linear(3, 2).to(dtype)
        self.encoder = torch.randn(4, 7, 5, dtype=dtype, requires_grad=True)
        self.predictor = torch.randn(4, 5, 4, dtype=dtype, requires_grad=True)
        self.groups: list[slice] = []

    def objective(self, nodes: JointNodes) -> torch.Tensor:
        """The plain loss and a second one, on the head, over the nodes that are there."""
        self.groups.append(nodes.rows)
        t = torch.arange(nodes.hidden.size(1))[None, :, None] < nodes.frames[:, None, None]
        u = torch.arange(nodes.hidden.size(2))[None, None] <= nodes.labels[:, None, None]
        return nodes.losses().sum() / 4 + 0.1 * (self.head(nodes.hidden) ** 2).sum(-1)[t & u].sum()

    def loss(self, **options) -> torch.Tensor:
        return joint_loss(
            self.objective,
            self.joint,
            self.encoder,
            FRAMES,
            self.predictor,
            TARGETS,
            LABELS,
            tuple(self.head.parameters()),
            **options,
        )

    def gradients(self) -> list[torch.Tensor]:
        return [t.grad for t in (self.encoder, self.predictor, *self.joint.parameters())] + [
            p.grad for p in self.head.parameters()
        ]


@pytest.mark.parametrize(
    "limit, groups", [(1, [1, 1, 1, 1]), (2 * 7 * 5 * 6, [2, 2]), (3 * 7 * 5 * 6, [3, 1])]
)
def test_groups_change_nothing(limit, groups):
    whole, cut = Losses(), Losses()
    whole.loss().backward()
    loss = cut.loss(group_scores=limit)
    loss.backward()
    assert [rows.stop - rows.start for rows in cut.groups] == groups
    assert whole.groups == [slice(0, 4)]
    torch.testing.assert_close(loss, whole.loss(), rtol=1e-6, atol=0)
    for mine, expected in zip(cut.gradients(), whole.gradients(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(cut.loss(group_scores=limit), loss, rtol=1e-6, atol=0)


def test_gradient_by_finite_differences():
    """In float64, where the recursion of this project takes torchaudio's place."""
    case = Losses(torch.float64)
    tensors = (case.encoder, case.predictor, case.joint.lin_out.weight, case.head.weight)
    assert torch.autograd.gradcheck(lambda *_: 3 * case.loss(group_scores=300), tensors)


def test_equals_ordinary_autograd():
    """The streamed loss against the same objective over one lattice that autograd holds."""
    ours, plain = Losses(), Losses()
    (2 * ours.loss(group_scores=1)).backward()
    hidden = plain.joint.joint_activation(
        plain.joint.lin_enc(plain.encoder)[:, :, None] + plain.joint.lin_dec(plain.predictor)[:, None]
    )
    nodes = JointNodes(slice(0, 4), hidden, plain.joint.lin_out, FRAMES, TARGETS, LABELS)
    (2 * plain.objective(nodes)).backward()
    for mine, expected in zip(ours.gradients(), plain.gradients(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)


def test_padding_gets_no_gradient():
    case = Losses()
    case.loss(group_scores=1).backward()
    for row in range(4):
        assert case.encoder.grad[row, int(FRAMES[row]) :].eq(0).all()
        assert case.predictor.grad[row, int(LABELS[row]) + 1 :].eq(0).all()
        assert case.encoder.grad[row, : int(FRAMES[row])].ne(0).any()


def test_frozen_parameters_get_no_gradient():
    case = Losses()
    case.joint.requires_grad_(False)
    case.head.bias.requires_grad_(False)
    case.loss().backward()
    assert all(p.grad is None for p in case.joint.parameters()) and case.head.bias.grad is None
    assert case.encoder.grad is not None and case.head.weight.grad is not None


def test_arcs_are_the_log_probabilities():
    scores = torch.randn(1, 2, 3, 4)
    nodes = JointNodes(
        slice(0, 1), scores, lambda _: scores, torch.tensor([2]), torch.tensor([[3, 1]]), torch.tensor([2])
    )
    blank, label = nodes.arcs()
    expected = scores.log_softmax(-1)
    torch.testing.assert_close(blank, expected[..., 0])
    torch.testing.assert_close(label[..., 0], expected[:, :, 0, 3])
    torch.testing.assert_close(label[..., 1], expected[:, :, 1, 1])


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_scores_are_at_least_fp32(dtype, wanted):
    """Whatever the joint network computes in: the sum over a lattice is taken of these."""
    case = Losses(dtype)
    case.objective = lambda nodes: seen.append(nodes.scores.dtype) or nodes.losses().sum()
    seen: list[torch.dtype] = []
    assert case.loss().dtype == wanted and seen == [wanted]


def test_scores_are_dropped_between_terms():
    """The largest tensor is not held while a term that does without it is differentiated."""
    case, held = Losses(), []

    def terms(nodes):
        yield nodes.losses().sum()
        held.append(nodes._scores is not None)
        yield nodes.hidden.sum()

    case.objective = terms
    case.loss(group_scores=1)
    assert held == [False] * 4


def test_loss_is_torchaudios():
    """On a CPU torchaudio gets two log-probabilities a node; it is the loss it has of all the scores."""
    draw = torch.Generator().manual_seed(0)
    ours = (torch.randn(4, 7, 5, 6, generator=draw) * 3).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    nodes = JointNodes(slice(0, 4), ours, lambda hidden: hidden, FRAMES, TARGETS, LABELS)
    expected = torchaudio.functional.rnnt_loss(
        theirs, TARGETS.int(), FRAMES.int(), LABELS.int(), blank=0, reduction="none"
    )
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (nodes.losses() * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(nodes.losses(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_loss_of_all_scores_is_the_same():
    """What a GPU takes: torchaudio with the softmax inside, whose backward makes no copy of the scores."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 7, 5, 6, generator=draw).requires_grad_()
    nodes = JointNodes(slice(0, 4), scores, lambda hidden: hidden, FRAMES, TARGETS, LABELS)
    fused = _RNNTLoss.apply(scores, TARGETS.int(), FRAMES.int(), LABELS.int(), True)
    torch.testing.assert_close(fused, nodes.losses(), rtol=1e-5, atol=1e-5)
    found = [torch.autograd.grad(3 * loss.sum(), scores)[0] for loss in (fused, nodes.losses())]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
