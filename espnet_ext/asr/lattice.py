"""The transducer's lattice (Graves 2012, section 2): one forward-backward recursion, and its best path.

Node (t, u) stands for: u labels are out, frame t is being read. A label arc leads from it to (t, u + 1), a
blank arc to (t + 1, u); the blank arc of (T - 1, U) ends the alignment. Nodes of one anti-diagonal t + u do
not depend on each other, so the recursion goes over the T + U diagonals and computes each at once.

The weights of the arcs are any log-scores, not only the joint network's: a second emission of a label arc is
a second summand of its weight.

Legend: B batch, T frames, U labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Lattice:
    """Sum over all alignments, and how often each arc is in one of them.

    The occupancies are posterior probabilities without gradient, at least fp32 and zero beyond an utterance's
    lengths. For every label `label.sum(1)` is 1, for every frame `blank.sum(2)` is 1.
    """

    loss: torch.Tensor  # (B,) -log of the sum over alignments of the products of their arcs; with gradient
    label: torch.Tensor  # (B, T, U) probability that label u + 1 is emitted while frame t is read
    blank: torch.Tensor  # (B, T, U + 1) probability that the alignment leaves frame t with u labels out


def lattice(blank: torch.Tensor, label: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor) -> Lattice:
    """Forward-backward recursion (Graves 2012, equations 16 to 20) over arcs of any weight.

    Computed in float64 for float64 weights, otherwise in float32.

    Args:
        blank: (B, T, U + 1) log-weights of the blank arcs.
        label: (B, T, U) log-weights of the label arcs: [t, u] emits label u + 1. -inf forbids an arc.
        frames: (B,) true numbers of frames, from 1 to T.
        labels: (B,) true numbers of labels, from 0 to U.

    Returns:
        See `Lattice`. An utterance without any allowed alignment has the loss inf and occupancies nan.

    Raises:
        ValueError: shapes or lengths that do not fit each other.
    """
    _check(blank, label, frames, labels)
    return Lattice(*_Lattice.apply(blank, label, frames, labels))


@torch.no_grad()
def best_path(
    blank: torch.Tensor, label: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The alignment of the largest weight (of equal ones: the one that emits latest).

    Args:
        blank, label, frames, labels: as `lattice`.

    Returns:
        (B, U): the frame at which each label is emitted, not decreasing; 0 beyond an utterance's labels.
    """
    _check(blank, label, frames, labels)
    by_blank, by_label = _arrivals_forward(blank, label, frames, labels)
    best = _recursion(by_blank, by_label, torch.maximum)  # (B, T, U + 1)
    utterance = torch.arange(len(frames), device=blank.device)
    t, u = (frames - 1).long(), labels.long()
    path = torch.zeros(label.size(0), label.size(2) + 1, dtype=torch.long, device=blank.device)
    for _ in range(blank.size(1) + label.size(2) - 1):  # from the last node back to (0, 0)
        through_label = best[utterance, t, (u - 1).clamp_min(0)] + by_label[utterance, t, u]
        through_blank = best[utterance, (t - 1).clamp_min(0), u] + by_blank[utterance, t, u]
        emits = (u > 0) & ((t == 0) | (through_label >= through_blank))
        # Labels are written at u - 1; what does not emit writes to the last column, which nobody reads.
        path[utterance, torch.where(emits, u - 1, path.size(1) - 1)] = t
        t, u = torch.where(emits, t, (t - 1).clamp_min(0)), torch.where(emits, u - 1, u)
    return path[:, :-1]


class _Lattice(torch.autograd.Function):
    """Sum over alignments whose gradient is the occupancy: both come out of one recursion."""

    @staticmethod
    def forward(ctx, blank, label, frames, labels):
        dtype = torch.promote_types(blank.dtype, torch.float32)
        ctx.dtypes = blank.dtype, label.dtype
        blank, label = blank.to(dtype), label.to(dtype)
        # Forward variables, and backward variables as forward variables of the reversed lattice, in one go.
        forward = _arrivals_forward(blank, label, frames, labels)
        reverse = _arrivals_reverse(blank, label, frames, labels)
        nodes = _recursion(*(torch.cat(pair) for pair in zip(forward, reverse, strict=True)), torch.logaddexp)
        alpha, beta = nodes.chunk(2)  # (B, T, U + 1) each
        beta = beta.flatten(1).gather(1, _reversal(frames, labels, *blank.shape[1:])).view_as(alpha)
        inside, inside_label = _inside(frames, labels, *blank.shape[1:])
        total = beta[:, 0, 0]  # (B,)
        # Where a blank arc leads: to the next frame, and from the last node out of the lattice.
        beyond = torch.full_like(beta[:, :1], -torch.inf)
        after_blank = torch.cat([beta[:, 1:], beyond], dim=1)
        utterance = torch.arange(len(frames), device=blank.device)
        after_blank[utterance, frames - 1] = -torch.inf
        after_blank[utterance, frames - 1, labels] = 0.0
        shift = total[:, None, None]
        blank_occupancy = (alpha + blank + after_blank - shift).exp().masked_fill(~inside, 0.0)
        label_occupancy = (alpha[:, :, :-1] + label + beta[:, :, 1:] - shift).exp()
        label_occupancy = label_occupancy.masked_fill(~inside_label, 0.0)
        ctx.save_for_backward(blank_occupancy, label_occupancy)
        ctx.mark_non_differentiable(blank_occupancy, label_occupancy)
        return -total, label_occupancy, blank_occupancy

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        blank, label = ctx.saved_tensors
        factor = -gradient[:, None, None]
        return (factor * blank).to(ctx.dtypes[0]), (factor * label).to(ctx.dtypes[1]), None, None


def _recursion(by_blank: torch.Tensor, by_label: torch.Tensor, add: Callable) -> torch.Tensor:
    """Value of every node from the arcs that arrive at it.

    Args:
        by_blank: (B, T, U + 1) weight of the arc from (t - 1, u); at (0, 0) the value to start with.
        by_label: (B, T, U + 1) weight of the arc from (t, u - 1); at u = 0 nothing arrives.
        add: combines two ways to a node: logaddexp for the sum, maximum for the best.

    Returns:
        (B, T, U + 1): node = add(node above + by_blank, node to the left + by_label).
    """
    batch, frames, width = by_blank.shape
    diagonals = frames + width - 1
    # Column u of a skewed tensor holds frame n - u in row n, so that a row is a diagonal.
    row = torch.arange(diagonals, device=by_blank.device)[:, None]
    t = row - torch.arange(width, device=by_blank.device)  # (diagonals, U + 1)
    outside, t = (t < 0) | (t >= frames), t.clamp(0, frames - 1).expand(batch, -1, -1)
    by_blank, by_label = (w.gather(1, t).masked_fill(outside, -torch.inf) for w in (by_blank, by_label))
    nodes = by_blank.new_full((batch, diagonals, width + 1), -torch.inf)  # column 0: nothing to the left
    nodes[:, 0, 1] = by_blank[:, 0, 0]
    for n in range(1, diagonals):
        before = nodes[:, n - 1]
        nodes[:, n, 1:] = add(before[:, 1:] + by_blank[:, n], before[:, :-1] + by_label[:, n])
    row = torch.arange(frames, device=by_blank.device)[:, None] + torch.arange(width, device=by_blank.device)
    return nodes[:, :, 1:].gather(1, row.expand(batch, -1, -1))


def _arrivals_forward(blank, label, frames, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the arcs that arrive at each node, arcs that leave an utterance's lattice forbidden."""
    inside, _ = _inside(frames, labels, *blank.shape[1:])
    by_blank = torch.nn.functional.pad(blank[:, :-1], (0, 0, 1, 0), value=-torch.inf)
    by_label = torch.nn.functional.pad(label, (1, 0), value=-torch.inf)
    by_blank = by_blank.masked_fill(~inside, -torch.inf)
    by_blank[:, 0, 0] = 0.0
    return by_blank, by_label.masked_fill(~inside, -torch.inf)


def _arrivals_reverse(blank, label, frames, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_arrivals_forward` for the lattice read from its end: node (t, u) becomes (T - 1 - t, U - u)."""
    inside, inside_label = _inside(frames, labels, *blank.shape[1:])
    order = _reversal(frames, labels, *blank.shape[1:])
    label = torch.nn.functional.pad(label.masked_fill(~inside_label, -torch.inf), (0, 1), value=-torch.inf)
    by_blank, by_label = (w.flatten(1).gather(1, order).view_as(blank) for w in (blank, label))
    end = by_blank[
        :, 0, 0
    ].clone()  # the blank that ends the alignment is what the reversed lattice starts with
    by_blank[:, 0] = -torch.inf
    by_blank[:, 0, 0] = end
    return by_blank.masked_fill(~inside, -torch.inf), by_label.masked_fill(~inside, -torch.inf)


def _inside(frames, labels, time: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which nodes (B, T, U + 1) and which label arcs (B, T, U) an utterance of these lengths has."""
    t = torch.arange(time, device=frames.device)[None, :, None] < frames[:, None, None]
    u = torch.arange(width, device=frames.device)[None, None]
    return t & (u <= labels[:, None, None]), t & (u[..., :-1] < labels[:, None, None])


def _reversal(frames, labels, time: int, width: int) -> torch.Tensor:
    """(B, T * (U + 1)): index of the node that takes each node's place when the lattice is read backwards."""
    t = (frames[:, None] - 1 - torch.arange(time, device=frames.device)).clamp_min(0)  # (B, T)
    u = (labels[:, None] - torch.arange(width, device=frames.device)).clamp_min(0)  # (B, U + 1)
    return (t[:, :, None] * width + u[:, None]).flatten(1).long()


def _check(blank, label, frames, labels) -> None:
    batch, time, width = blank.shape
    if label.shape != (batch, time, width - 1):
        raise ValueError(
            f"label arcs {tuple(label.shape)}: expected {(batch, time, width - 1)} for {tuple(blank.shape)}"
        )
    for name, lengths, least, most in (("frames", frames, 1, time), ("labels", labels, 0, width - 1)):
        if lengths.shape != (batch,) or int(lengths.min()) < least or int(lengths.max()) > most:
            raise ValueError(f"{name} {lengths.tolist()}: expected {batch} numbers from {least} to {most}")
