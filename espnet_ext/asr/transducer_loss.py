"""Losses on the transducer's joint lattice that never hold more than a few utterances of it.

The joint network's output is the largest tensor of a transducer: B T (U + 1) V scores. Here it exists for a
group of utterances at a time: their loss is computed, its gradient is taken at once down to the projections
of encoder and predictor, and the scores are dropped. Forward and backward pass happen once, as with the full
lattice; only their order differs.

Legend: B batch, G utterances of a group, T frames, U labels, V tokens, J joint space, D features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torchaudio  # noqa: F401  (its import brings the operators along)
from espnet2.asr_transducer.joint_network import JointNetwork
from torch.autograd.function import once_differentiable

from espnet_ext.asr.lattice import lattice

#: Scores of the joint network that are held at once (utterances with more stand alone): 32 MiB in fp32.
GROUP_SCORES = 2**23


@dataclass
class JointNodes:
    """The joint network's values for some utterances; at node [g, t, u] u labels are out, frame t is read."""

    rows: slice  # which utterances of the batch
    hidden: torch.Tensor  # (G, T, U + 1, J) activations before the output layer
    output: Callable[[torch.Tensor], torch.Tensor]  # the output layer
    frames: torch.Tensor  # (G,)
    targets: torch.Tensor  # (G, U) padded with anything
    labels: torch.Tensor  # (G,)
    _scores: torch.Tensor | None = None
    _normaliser: torch.Tensor | None = None

    @property
    def scores(self) -> torch.Tensor:
        """(G, T, U + 1, V) before the softmax, at least fp32; computed when they are first asked for."""
        if self._scores is None:
            # They are kept: whoever asks first without gradient must not take it from the others.
            with torch.set_grad_enabled(self.hidden.requires_grad):
                scores = self.output(self.hidden)
                self._scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return self._scores

    def forget_scores(self) -> None:
        """Drop the scores, the largest tensor; whoever asks again has them computed again."""
        self._scores = self._normaliser = None

    def losses(self) -> torch.Tensor:
        """(G,) -log P(labels | audio) of each utterance (Graves 2012, equation 15), by torchaudio."""
        # torchaudio wants at least one label, and refuses float64, which only tests use.
        if self.targets.size(1) == 0 or self.hidden.dtype == torch.float64:
            return lattice(*self.arcs(), self.frames, self.labels).loss
        lengths = self.frames.int(), self.labels.int()
        if self.hidden.is_cuda:
            return _RNNTLoss.apply(self.scores.contiguous(), self.targets.int().contiguous(), *lengths, True)
        # On a CPU torchaudio goes through a node's scores one by one, torch through several at once: what
        # torchaudio gets there is the two log-probabilities that a node has arcs for.
        blank, label = self.arcs()
        pair = torch.stack([blank, torch.nn.functional.pad(label, (0, 1))], dim=-1)  # (G, T, U + 1, 2)
        return _RNNTLoss.apply(pair, torch.ones_like(self.targets, dtype=torch.int32), *lengths, False)

    def arcs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the blank arcs (G, T, U + 1) and of the label arcs (G, T, U)."""
        if self._normaliser is None:  # kept for whoever asks next; its gradient is part of the arcs'
            with torch.no_grad():
                self._normaliser = self.scores.logsumexp(-1)  # (G, T, U + 1)
        return _Arcs.apply(self.scores, self._normaliser, self.targets.long().clamp_min(0))


#: What a loss makes of the nodes of some utterances: a scalar, weighted and divided by its denominator; or
#: several whose sum it is, one after the other. What one of them needs is freed before the next is asked
#: for.
Objective = Callable[[JointNodes], torch.Tensor | Iterable[torch.Tensor]]


def joint_loss(
    objective: Objective,
    joint_network: JointNetwork,
    encoder_out: torch.Tensor,
    frames: torch.Tensor,
    predictor_out: torch.Tensor,
    targets: torch.Tensor,
    labels: torch.Tensor,
    parameters: Sequence[torch.nn.Parameter] = (),
    group_scores: int = GROUP_SCORES,
) -> torch.Tensor:
    """Sum of an objective over all utterances of a batch.

    Args:
        objective: called for each group of utterances; what it returns is added up. It must not keep tensors
            that carry gradient.
        joint_network: ESPnet's.
        encoder_out: (B, T, D).
        frames: (B,) true numbers of frames.
        predictor_out: (B, U + 1, D).
        targets: (B, U) labels.
        labels: (B,) true numbers of labels.
        parameters: further parameters that the objective reads (of heads, say).
        group_scores: see `GROUP_SCORES`.

    Returns:
        scalar with gradient to everything that requires one; it can be differentiated once.
    """
    from_encoder = joint_network.lin_enc(encoder_out)  # (B, T, J)
    from_predictor = joint_network.lin_dec(predictor_out)  # (B, U + 1, J)
    vocabulary = joint_network.lin_out.out_features
    groups = list(_groups(frames.tolist(), labels.tolist(), vocabulary, group_scores))

    def activate(from_encoder: torch.Tensor, from_predictor: torch.Tensor) -> torch.Tensor:
        return joint_network.joint_activation(from_encoder[:, :, None] + from_predictor[:, None])

    def nodes(rows: slice, hidden: torch.Tensor) -> JointNodes:
        size = hidden.size(2) - 1
        return JointNodes(
            rows, hidden, joint_network.lin_out, frames[rows], targets[rows, :size], labels[rows]
        )

    weights = [p for p in (*joint_network.lin_out.parameters(), *parameters) if p.requires_grad]
    compute = _Computation(objective, activate, nodes, weights)
    return _Streamed.apply(compute, groups, from_encoder, from_predictor, *weights)


def _groups(frames: list[int], labels: list[int], vocabulary: int, limit: int) -> Iterator[tuple]:
    """Neighbours whose padded lattices stay under the limit: (rows, longest T, longest U + 1)."""
    start = 0
    while start < len(frames):
        stop, t, u = start, 0, 0
        while stop < len(frames):
            wider = max(t, frames[stop]), max(u, labels[stop] + 1)
            if stop > start and (stop + 1 - start) * wider[0] * wider[1] * vocabulary > limit:
                break
            (t, u), stop = wider, stop + 1
        yield slice(start, stop), t, u
        start = stop


@dataclass
class _Computation:
    """What is computed for a group, and which parameters its gradient goes to besides its inputs."""

    objective: Objective
    activate: Callable
    nodes: Callable
    weights: list[torch.nn.Parameter]

    def terms(self, nodes: JointNodes) -> Iterator[torch.Tensor]:
        """The objective's terms. A term's backward pass does without the scores, if its graph does."""
        found = self.objective(nodes)
        for term in [found] if isinstance(found, torch.Tensor) else found:
            nodes.forget_scores()
            yield term


class _Streamed(torch.autograd.Function):
    """Sum of an objective over groups, each term's gradient taken while its tensors are there."""

    @staticmethod
    def forward(ctx, compute: _Computation, groups, from_encoder, from_predictor, *_):
        total = torch.zeros(
            (), device=from_encoder.device, dtype=torch.promote_types(from_encoder.dtype, torch.float32)
        )
        if not any(ctx.needs_input_grad):
            for rows, t, u in groups:
                hidden = compute.activate(from_encoder[rows, :t], from_predictor[rows, :u])
                for term in compute.terms(compute.nodes(rows, hidden)):
                    total += term
            return total
        inputs = torch.zeros_like(from_encoder), torch.zeros_like(from_predictor)
        weights: list[torch.Tensor | None] = [None] * len(compute.weights)
        for rows, t, u in groups:
            with torch.enable_grad():
                parts = [
                    x[rows, :n].detach().requires_grad_() for x, n in ((from_encoder, t), (from_predictor, u))
                ]
                hidden = compute.activate(*parts)
                # A copy without history: terms are differentiated down to it, and only their sum further.
                leaf = hidden.detach().requires_grad_()
                gradient = None
                for term in compute.terms(compute.nodes(rows, leaf)):
                    total += term.detach()
                    found = torch.autograd.grad(term, [leaf, *compute.weights], allow_unused=True)
                    del term
                    gradient = _plus(gradient, found[0])
                    weights = [_plus(*pair) for pair in zip(weights, found[1:], strict=True)]
                    del found
            if gradient is not None:
                for whole, n, part in zip(
                    inputs, (t, u), torch.autograd.grad(hidden, parts, gradient), strict=True
                ):
                    whole[rows, :n] = part
        ctx.gradients = [*inputs, *weights]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        return None, None, *(None if g is None else g * factor for g in ctx.gradients)


def _plus(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    """Add to a gradient, in place."""
    if total is None or more is None:
        return more if total is None else total
    return total.add_(more)


class _RNNTLoss(torch.autograd.Function):
    """torchaudio's loss, which knows its gradient after the forward pass; here backward makes no copy."""

    @staticmethod
    def forward(ctx, scores, targets, frames, labels, softmax: bool):
        # The arguments are blank, clamp (negative: none), and whether the softmax is still to be taken.
        losses, gradient = torch.ops.torchaudio.rnnt_loss_forward(
            scores, targets, frames, labels, 0, -1.0, softmax
        )
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        # In place: torch refuses a second backward pass, since what was saved has changed.
        return ctx.saved_tensors[0].mul_(factor[:, None, None, None]), None, None, None, None


class _Arcs(torch.autograd.Function):
    """Log-softmax of the two scores a node needs; backward in one tensor of the scores' size, not in four."""

    @staticmethod
    def forward(ctx, scores, normaliser, targets):
        index = targets[:, None, :, None].expand(-1, scores.size(1), -1, -1)  # (G, T, U, 1)
        ctx.save_for_backward(scores, normaliser, index)
        label = scores[:, :, :-1].gather(3, index).squeeze(3)
        return scores[..., 0] - normaliser, label - normaliser[:, :, :-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, blank, label):
        scores, normaliser, index = ctx.saved_tensors
        leaving = blank.clone()  # (G, T, U + 1) gradient of all arcs that leave a node
        leaving[:, :, :-1] += label
        gradient = (scores - normaliser[..., None]).exp_().mul_(-leaving[..., None])
        gradient[..., 0] += blank
        gradient[:, :, :-1].scatter_add_(3, index, label[..., None])
        return gradient, None, None
