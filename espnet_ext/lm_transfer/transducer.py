"""Embedding prediction by a neural transducer (Kubo et al. 2022, "neural transducers").

The embedding e_{u+1} belongs to a label, the joint network's state z_{t,u} to a label and a frame. Read as
a second emission of every label arc, it gives the arcs of the lattice these scores (`form: exact`):

    label, (t, u) → (t, u + 1):  log P(y_{u+1} | t, u) − λ d(g(z_{t,u}), e_{u+1})
    blank:                       log P(∅ | t, u)

Its gradient in g is Σ ω_{t,u} λ ∂d/∂g, with ω the posterior probability that label u + 1 is emitted at
frame t. With ω of the plain lattice, and no gradient through ω, this is the `surrogate`: Σ ω_{t,u} λ d,
one step of EM, which needs g only where ω is not negligible. `best_path` takes the one frame of each label
on the heaviest alignment; `predictor` leaves the speech out: g reads the prediction network's output,
which knows y_≤u alone.

Legend: B batch, G utterances of a group, T frames, U labels, J joint space, E size of an embedding, N nodes.
"""

from collections.abc import Iterator
from functools import partial

import torch

from espnet_ext.asr.lattice import best_path, lattice
from espnet_ext.asr.transducer import TransducerOutput
from espnet_ext.asr.transducer_loss import JointNodes
from espnet_ext.asr.transducer_method import Tally, TransducerMethod
from espnet_ext.lm_transfer.distances import distance
from espnet_ext.lm_transfer.method import Transfer
from espnet_ext.lm_transfer.targets import TargetBatch
from espnet_ext.train.method import Figures, Loss, MicroBatch
from espnet_ext.train.precision import full_precision

#: Nodes whose embedding is predicted at once.
NODES = 4096


def emission_weights(nodes: JointNodes, form: str, floor: float) -> torch.Tensor:
    """How much the node of each label arc counts for its label, without gradient.

    Args:
        nodes: of some utterances.
        form: `surrogate` (posterior of the plain lattice) or `best_path`.
        floor: nodes below this part of their label's largest posterior are left out; the rest adds up to 1.

    Returns:
        (G, T, U) fp32: for every label of an utterance they add up to 1 over its frames.
    """
    with torch.no_grad():
        blank, label = nodes.arcs()
        if form == "best_path":
            frames = best_path(blank, label, nodes.frames, nodes.labels)  # (G, U)
            found = torch.zeros_like(label).scatter_(1, frames[:, None], 1.0)
            there = torch.arange(label.size(2), device=label.device) < nodes.labels[:, None]
            return found * there[:, None]
        found = lattice(blank, label, nodes.frames, nodes.labels).label
        found = found.masked_fill(found < floor * found.amax(1, keepdim=True), 0.0)
        total = found.sum(1, keepdim=True)
        return found / total.where(total > 0, torch.ones_like(total))


class TransducerTransfer(Transfer, TransducerMethod):
    """Transducer training that also predicts the embeddings, by a head over the joint network's states or
    (`predictor`) the prediction network's.

    With a weight of 0 the recogniser's training is the control's to the bit (the exact form: up to
    rounding, since this project's recursion takes torchaudio's place).
    """

    def transfer_part(self, micro: MicroBatch, weight: float) -> Loss:
        """The transducer's loss and λ times the embedding's, of a micro-batch."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        targets = self.targets.batch(micro.batch)
        return self.embedding_part(output, targets, micro, weight)

    def embedding_part(
        self, output: TransducerOutput, targets: TargetBatch, micro: MicroBatch, weight: float
    ) -> Loss:
        """As `transfer_part`, from a forward pass and its targets (the last one, that of <eos>, is not
        read).
        """
        tally, denominator = Tally(), self.denominator(micro)
        objective = partial(
            self.objective, targets=targets, weight=weight, denominator=denominator, tally=tally
        )
        form = self.options.form
        reads_nodes = form != "predictor"
        loss = self.model.lattice_loss(
            output,
            objective if reads_nodes else partial(self.plain, denominator=denominator, tally=tally),
            tuple(self.head.parameters()) if reads_nodes else (),
        )
        if not reads_nodes:
            loss = loss + self.predictor_loss(output, targets, weight / denominator, tally)
        sums = tally.sums
        figures: Figures = {"lm_weight": (weight, 1.0), "lm_distance": (sums["distance"], sums["labels"])}
        if self.options.distance != "cosine":
            figures["lm_r2"] = (sums["explained"], sums["total"])
        return self.result(loss, output, tally, micro, **figures)

    def objective(
        self, nodes: JointNodes, targets: TargetBatch, weight: float, denominator: float, tally: Tally
    ) -> Iterator[torch.Tensor]:
        """Terms of the loss of some utterances, see the module's head."""
        size = nodes.targets.size(1)
        values = targets.values[nodes.rows, :size]  # (G, U, E)
        there = targets.there[nodes.rows, :size] & (
            torch.arange(size, device=values.device) < nodes.labels[:, None]
        )
        # λ multiplies what the transducer's own weight multiplies: both are terms of one loss.
        scale = self.model.transducer_weight / denominator
        nodes.scores.detach()  # by the output layer in the recogniser's own precision: below, autocast is off
        with full_precision(values.device):
            if self.options.form == "exact":
                each = self._distances(nodes, values) * there[:, None]
                blank, label = nodes.arcs()
                found = lattice(blank, label - weight * each.to(label.dtype), nodes.frames, nodes.labels)
                with torch.no_grad():  # of the plain lattice: the joint one's is not the control's
                    tally.add("transducer", lattice(blank, label, nodes.frames, nodes.labels).loss.sum())
                posterior = found.label * there[:, None]
                yield scale * found.loss.sum()
                del blank, label, found
                # What the lattice has counted already: its gradient in d is the posterior, d's follows here.
                for term in self._weighted(nodes, values, posterior, tally):
                    yield scale * weight * (term - term.detach())
                return
            posterior = emission_weights(nodes, self.options.form, self.options.floor) * there[:, None]
            yield self.plain(nodes, denominator, tally)
            for term in self._weighted(nodes, values, posterior, tally):
                yield scale * weight * term

    def _weighted(self, nodes: JointNodes, values, posterior, tally: Tally) -> Iterator[torch.Tensor]:
        """Σ ω d over the nodes with a posterior, some nodes at a time; at least one term."""
        chosen = posterior.nonzero()  # (N, 3): utterance, frame, label
        for row, t, u in (part.unbind(1) for part in chosen.split(NODES) if len(part) or not len(chosen)):
            prediction = self.head(_at_least_fp32(nodes.hidden[row, t, u]))  # (NODES, E)
            target, weights = values[row, u], posterior[row, t, u]
            total = (weights * distance(prediction, target, self.options.distance)).sum()
            self._note(tally, total, prediction, target, weights)
            yield total

    @torch.no_grad()
    def _distances(self, nodes: JointNodes, values: torch.Tensor) -> torch.Tensor:
        """(G, T, U) distance at every node, without gradient."""
        frames = max(1, NODES // max(1, values.size(0) * values.size(1)))
        parts = []
        for hidden in nodes.hidden[:, :, :-1].split(frames, dim=1):
            prediction = self.head(_at_least_fp32(hidden))
            target = values[:, None].expand_as(prediction)
            parts.append(distance(prediction, target, self.options.distance))
        return torch.cat(parts, dim=1)

    def predictor_loss(
        self, output: TransducerOutput, targets: TargetBatch, factor: float, tally: Tally
    ) -> torch.Tensor:
        """λ Σ_u d(g(p_u), e_{u+1}) / denominator, with p_u the prediction network's output behind u
        labels.
        """
        with full_precision(targets.values.device):
            there = targets.there[:, :-1] & (
                torch.arange(targets.there.size(1) - 1, device=targets.there.device)
                < output.target_lens[:, None]
            )
            prediction = self.head(_at_least_fp32(output.predictor_out[:, :-1][there]))
            target = targets.values[:, :-1][there]
            total = distance(prediction, target, self.options.distance).sum()
            self._note(tally, total, prediction, target, torch.ones(len(target), device=target.device))
        return self.model.transducer_weight * factor * total

    def _note(self, tally: Tally, total, prediction, target, posterior) -> None:
        """Sums for the figures; R² counts every prediction by its posterior."""
        with torch.no_grad():
            tally.add("distance", total)
            tally.add("labels", posterior.sum())
            squares = (posterior * target.pow(2).sum(-1)).sum()
            tally.add("total", squares)
            tally.add("explained", squares - (posterior * (prediction - target).pow(2).sum(-1)).sum())

    def validate(self, micro: MicroBatch) -> Figures:
        return {n: f for n, f in self.transfer_part(micro, 0.0).figures.items() if n != "lm_weight"}


def _at_least_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
