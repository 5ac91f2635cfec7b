"""Losses on the transducer's joint lattice that never hold more than a few utterances of it.

The joint network's output is the largest tensor of a transducer: B T (U + 1) V scores. Here it exists for a
group of utterances at a time: their loss is computed, its gradient is taken at once down to the projections
of encoder and predictor, and the scores are dropped. Forward and backward pass happen once, as with the full
lattice; only their order differs.

Legend: B batch, G utterances of a group, T frames, U labels, V tokens, J joint space, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torchaudio
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
    scores: torch.Tensor  # (G, T, U + 1, V) before the softmax, at least fp32
    frames: torch.Tensor  # (G,)
    targets: torch.Tensor  # (G, U) padded with anything
    labels: torch.Tensor  # (G,)

    def losses(self) -> torch.Tensor:
        """(G,) -log P(labels | audio) of each utterance (Graves 2012, equation 15), by torchaudio."""
        # torchaudio wants at least one label, and refuses float64, which only tests use.
        if self.targets.size(1) == 0 or self.scores.dtype == torch.float64:
            blank, label = self.arcs()
            return lattice(blank, label, self.frames, self.labels).loss
        return torchaudio.functional.rnnt_loss(
            self.scores.contiguous(),
            self.targets.int().contiguous(),
            self.frames.int(),
            self.labels.int(),
            blank=0,
            reduction="none",
        )

    def arcs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the blank arcs (G, T, U + 1) and of the label arcs (G, T, U)."""
        normaliser = self.scores.logsumexp(-1)
        index = self.targets.long().clamp_min(0)[:, None, :, None].expand(-1, self.scores.size(1), -1, -1)
        label = self.scores[:, :, :-1].gather(3, index).squeeze(3) - normaliser[:, :, :-1]
        return self.scores[..., 0] - normaliser, label


#: What a loss makes of the nodes of some utterances: a scalar, weighted and divided by its denominator.
Objective = Callable[[JointNodes], torch.Tensor]


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

    def nodes(rows: slice, from_encoder: torch.Tensor, from_predictor: torch.Tensor) -> JointNodes:
        hidden = joint_network.joint_activation(from_encoder[:, :, None] + from_predictor[:, None])
        scores = joint_network.lin_out(hidden)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        size = from_predictor.size(1) - 1
        return JointNodes(rows, hidden, scores, frames[rows], targets[rows, :size], labels[rows])

    weights = [p for p in (*joint_network.lin_out.parameters(), *parameters) if p.requires_grad]
    return _Streamed.apply(objective, nodes, groups, weights, from_encoder, from_predictor, *weights)


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


class _Streamed(torch.autograd.Function):
    """Sum of an objective over groups, each group's gradient taken while its tensors are there."""

    @staticmethod
    def forward(ctx, objective, nodes, groups, weights, from_encoder, from_predictor, *_):
        total = torch.zeros(
            (), device=from_encoder.device, dtype=torch.promote_types(from_encoder.dtype, torch.float32)
        )
        if not any(ctx.needs_input_grad):
            for rows, t, u in groups:
                total += objective(nodes(rows, from_encoder[rows, :t], from_predictor[rows, :u]))
            return total
        encoder_gradient, predictor_gradient = (
            torch.zeros_like(from_encoder),
            torch.zeros_like(from_predictor),
        )
        gradients: list[torch.Tensor | None] = [None] * len(weights)
        for rows, t, u in groups:
            with torch.enable_grad():
                inputs = from_encoder[rows, :t].detach(), from_predictor[rows, :u].detach()
                for tensor in inputs:
                    tensor.requires_grad_()
                loss = objective(nodes(rows, *inputs))
                total += loss.detach()
                found = torch.autograd.grad(loss, [*inputs, *weights], allow_unused=True)
            for whole, length, gradient in zip(
                (encoder_gradient, predictor_gradient), (t, u), found[:2], strict=True
            ):
                if gradient is not None:
                    whole[rows, :length] = gradient
            for place, gradient in enumerate(found[2:]):
                if gradient is not None:
                    before = gradients[place]
                    gradients[place] = gradient if before is None else before.add_(gradient)
        ctx.gradients = [encoder_gradient, predictor_gradient, *gradients]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        return None, None, None, None, *(None if g is None else g * factor for g in ctx.gradients)
