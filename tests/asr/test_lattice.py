"""The recursion over the transducer's lattice equals enumeration of every alignment."""

import itertools

import pytest
import torch
import torchaudio

from espnet_ext.asr.lattice import best_path, lattice


def arcs(batch: int, frames: int, labels: int, dtype=torch.float64, seed: int = 0):
    """Blank and label log-weights of a random lattice; unlike log-probabilities they need not sum to one."""
    draw = torch.Generator().manual_seed(seed)
    blank = torch.randn(batch, frames, labels + 1, generator=draw, dtype=torch.float64)
    label = torch.randn(batch, frames, labels, generator=draw, dtype=torch.float64)
    return blank.to(dtype), label.to(dtype)


def alignments(frames: int, labels: int):
    """Every alignment, as the sequence of frames at which the labels are emitted."""
    return itertools.combinations_with_replacement(range(frames), labels)


def weight(blank: torch.Tensor, label: torch.Tensor, emitted: tuple[int, ...]) -> torch.Tensor:
    """Log-weight of one alignment of one utterance: blank (T, U + 1), label (T, U)."""
    total = sum(label[t, u] for u, t in enumerate(emitted))
    for t in range(blank.size(0)):
        total = total + blank[t, sum(e <= t for e in emitted)]  # the labels that are out when frame t is left
    return total


def by_enumeration(blank: torch.Tensor, label: torch.Tensor):
    """Loss and occupancies (T, U), (T, U + 1) of one utterance from all its alignments."""
    paths = list(alignments(*label.shape))
    weights = torch.stack([weight(blank, label, path) for path in paths])
    on_label, on_blank = torch.zeros_like(label), torch.zeros_like(blank)
    for path, posterior in zip(paths, weights.softmax(0), strict=True):
        for u, t in enumerate(path):
            on_label[t, u] += posterior
        for t in range(blank.size(0)):
            on_blank[t, sum(e <= t for e in path)] += posterior
    return -weights.logsumexp(0), on_label, on_blank


SIZES = [(frames, labels) for frames in range(1, 6) for labels in range(5)]


def lengths(*pairs: tuple[int, int]):
    return tuple(torch.tensor(column) for column in zip(*pairs, strict=True))


@pytest.mark.parametrize("frames, labels", SIZES)
def test_equals_enumeration(frames, labels):
    blank, label = arcs(1, frames, labels)
    ours = lattice(blank, label, *lengths((frames, labels)))
    loss, on_label, on_blank = by_enumeration(blank[0], label[0])
    for mine, expected in ((ours.loss[0], loss), (ours.label[0], on_label), (ours.blank[0], on_blank)):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)


def test_lengths_inside_a_batch():
    """All sizes in one batch, whatever stands in the padding, equal each of them alone."""
    blank, label = arcs(len(SIZES), 6, 5)
    frames, labels = lengths(*SIZES)
    padding = torch.arange(6)[None, :, None] >= frames[:, None, None]
    beyond = torch.arange(6)[None, None] > labels[:, None, None]
    blank = blank.masked_fill(padding | beyond, torch.nan)
    label = label.masked_fill(padding | beyond[..., 1:], torch.nan).requires_grad_()
    ours = lattice(blank, label, frames, labels)
    ours.loss.sum().backward()
    for row, (t, u) in enumerate(SIZES):
        loss, on_label, on_blank = by_enumeration(blank[row, :t, : u + 1], label[row, :t, :u].detach())
        torch.testing.assert_close(ours.loss[row], loss, rtol=0, atol=1e-10)
        for mine, expected in ((ours.label, on_label), (ours.blank, on_blank), (-label.grad, on_label)):
            whole = torch.zeros_like(mine[row])
            whole[:t, : expected.size(1)] = expected
            torch.testing.assert_close(mine[row], whole, rtol=0, atol=1e-10)


def test_occupancies_are_probabilities():
    """Every label is emitted once, every frame is left once: a blank or an end that is forgotten shows."""
    blank, label = arcs(3, 40, 12, dtype=torch.float32)
    frames, labels = lengths((40, 12), (7, 12), (23, 3))
    ours = lattice(blank * 5, label * 5, frames, labels)
    assert ours.label.dtype == ours.blank.dtype == torch.float32
    labels_there = (torch.arange(12) < labels[:, None]).float()
    frames_there = (torch.arange(40) < frames[:, None]).float()
    torch.testing.assert_close(ours.label.sum(1), labels_there, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.blank.sum(2), frames_there, rtol=0, atol=1e-4)
    assert ours.label[1, 7:].eq(0).all() and ours.label[2, :, 3:].eq(0).all()


def test_gradient_by_finite_differences():
    blank, label = (w.requires_grad_() for w in arcs(3, 4, 3))
    frames, labels = lengths((4, 3), (2, 3), (3, 0))
    assert torch.autograd.gradcheck(lambda b, y: lattice(b, y, frames, labels).loss, (blank, label))


def test_occupancies_carry_no_gradient():
    blank, label = (w.requires_grad_() for w in arcs(1, 3, 2))
    ours = lattice(blank, label, *lengths((3, 2)))
    assert ours.loss.requires_grad and not ours.label.requires_grad and not ours.blank.requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_other_precisions(dtype, tolerance):
    """Half precision is a property of the weights alone: the recursion itself runs in float32."""
    blank, label = arcs(2, 5, 4, dtype=dtype)
    size = lengths((5, 4), (4, 2))
    blank, label = blank.requires_grad_(), label.requires_grad_()
    ours = lattice(blank, label, *size)
    ours.loss.sum().backward()
    exact = lattice(blank.detach().double(), label.detach().double(), *size)
    assert ours.loss.dtype == ours.label.dtype == torch.float32
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
    assert label.grad.dtype == dtype
    torch.testing.assert_close(label.grad.double(), -exact.label, rtol=0, atol=tolerance)


def test_torchaudio_agrees():
    """torchaudio's loss and gradient, from the log-probabilities of a softmax."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 9, 6, 7, generator=draw)
    targets = torch.randint(1, 7, (3, 5), generator=draw)
    frames, labels = lengths((9, 5), (4, 5), (7, 2))
    theirs = logits.clone().requires_grad_()
    loss = torchaudio.functional.rnnt_loss(
        theirs, targets.int(), frames.int(), labels.int(), blank=0, reduction="none"
    )
    loss.sum().backward()
    mine = logits.clone().requires_grad_()
    scores = mine.log_softmax(-1)
    label = scores[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, 9, -1, -1)).squeeze(3)
    ours = lattice(scores[..., 0], label, frames, labels)
    ours.loss.sum().backward()
    torch.testing.assert_close(ours.loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames, labels", SIZES)
def test_best_path_is_the_heaviest(frames, labels):
    blank, label = arcs(2, frames + 2, labels + 1, seed=frames * 10 + labels)
    path = best_path(blank, label, *lengths((frames, labels), (frames + 2, labels + 1)))
    best = max(
        alignments(frames, labels),
        key=lambda p: float(weight(blank[0, :frames, : labels + 1], label[0, :frames, :labels], p)),
    )
    assert path[0].tolist() == [*best, 0]
    assert path[1].tolist() == list(
        max(alignments(frames + 2, labels + 1), key=lambda p: float(weight(blank[1], label[1], p)))
    )


def test_of_equal_paths_the_best_emits_latest():
    blank, label = torch.zeros(2, 4, 3), torch.zeros(2, 4, 2)
    assert best_path(blank, label, *lengths((4, 2), (3, 1))).tolist() == [[3, 3], [2, 0]]


def test_forbidden_arcs():
    """With one alignment left the lattice is that alignment; with none left the loss says so."""
    blank, label = arcs(1, 4, 3)
    keep = torch.full_like(label, -torch.inf)
    for u, t in enumerate((0, 2, 2)):
        keep[0, t, u] = label[0, t, u]
    ours = lattice(blank, keep, *lengths((4, 3)))
    torch.testing.assert_close(-ours.loss[0], weight(blank[0], label[0], (0, 2, 2)), rtol=0, atol=1e-12)
    assert torch.equal(ours.label[0].nonzero(), torch.tensor([[0, 0], [2, 1], [2, 2]]))
    keep[0, 0, 0] = -torch.inf
    nothing = lattice(blank, keep, *lengths((4, 3)))
    assert nothing.loss.isposinf().all() and nothing.label.isnan().all()


def test_long_lattice_in_float32():
    """Thousands of frames lose no alignment: the loss stays that of float64."""
    blank, label = arcs(1, 1500, 40, dtype=torch.float32)
    ours = lattice(blank, label, *lengths((1500, 40)))
    exact = lattice(blank.double(), label.double(), *lengths((1500, 40)))
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.label.double(), exact.label, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "frames, labels, message", [([5], [3], "frames"), ([0], [3], "frames"), ([4], [4], "labels")]
)
def test_lengths_that_do_not_fit(frames, labels, message):
    with pytest.raises(ValueError, match=message):
        lattice(*arcs(1, 4, 3), torch.tensor(frames), torch.tensor(labels))
    with pytest.raises(ValueError, match="label arcs"):
        lattice(arcs(1, 4, 3)[0], arcs(1, 3, 3)[1], torch.tensor([3]), torch.tensor([3]))
