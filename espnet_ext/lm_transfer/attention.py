"""Embedding prediction by the state of an attention decoder (Kubo et al. 2022, "attention-based decoders").

    L = L_joint + λ Σ_u d(g(s_u), e_u)

s_u is the decoder state that predicts label u, before the output layer; e_u the LM's embedding of that label,
computed from the whole reference. The decoder sees it nowhere: it must predict it from y_<u and the speech.

Legend: B batch, U labels with <eos>, D size of a state, E size of an embedding, N labels that have a target.
"""

from collections.abc import Sequence
from functools import partial

import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.lm_transfer.distances import distance, explained
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import TransferOptions
from espnet_ext.lm_transfer.targets import TargetBatch, Targets
from espnet_ext.train.method import Figures, Loss, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.precision import full_precision


def embedding_figures(
    prediction: torch.Tensor, target: torch.Tensor, each: torch.Tensor, kind: str
) -> Figures:
    """What is logged about predictions.

    Args:
        prediction, target: (N, E).
        each: (N,) distances.
        kind: of distance; a cosine says nothing about lengths, and so nothing about R².

    Returns:
        `lm_distance` a label, and `lm_r2`, the explained part of the targets' variance. A low distance
        with a low R² is a prediction of the mean.
    """
    figures: Figures = {"lm_distance": (each.detach().sum(), len(each))}
    if kind != "cosine":
        figures["lm_r2"] = explained(prediction.detach(), target)
    return figures


class AttentionTransfer(JointMethod):
    """Joint training that also predicts the embeddings; the head is updated and clipped on its own.

    With a weight of 0 the recogniser's training is the control's to the bit, and the head gets no gradient
    but zeros.

    Args:
        model: a recogniser with a Transformer decoder.
        updater: over its parameters.
        head: g.
        head_updater: over the head's parameters.
        targets: e.
        options: see there.
        steps: optimiser steps of the whole training.
        loss_norm: as `JointMethod`; the embedding's term is divided by the same number.
    """

    def __init__(
        self,
        model: ASRModel,
        updater: Updater,
        head: EmbeddingHead,
        head_updater: Updater,
        targets: Targets,
        options: TransferOptions,
        steps: int,
        loss_norm: str = "utterance",
    ):
        super().__init__(model, updater, loss_norm, {"head": head}, {"head": head_updater})
        self.head, self.targets, self.options, self.steps = head, targets, options, steps

    def turns(self, position: Position) -> Sequence[Turn]:
        weight = self.options.weight_at(position.step, self.steps)
        part = Part("labelled", partial(self.transfer_part, weight=weight))
        return (Turn("model", (part,), ("model", "head")),)

    def transfer_part(self, micro: MicroBatch, weight: float) -> Loss:
        """The joint loss and λ times the embedding's, of a micro-batch."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        loss = self.joint_loss(output, micro)
        figures = self.joint_figures(output, loss, micro)
        total, more = self.embedding_loss(output, self.targets.batch(micro.batch))
        denominator = micro.totals.labels if self.loss_norm == "token" else micro.totals.utterances
        return Loss(loss + weight * (total / denominator), figures | more | {"lm_weight": (weight, 1.0)})

    def embedding_loss(self, output: ASROutput, targets: TargetBatch) -> tuple[torch.Tensor, Figures]:
        """Sum of the distances over all labels that have a target, and figures.

        `loss` among the figures of the training is the joint loss alone, comparable with the control's.
        """
        with full_precision(targets.values.device):
            hidden = output.decoder_hidden[targets.there]
            prediction = self.head(hidden.to(torch.promote_types(hidden.dtype, torch.float32)))  # (N, E)
            target = targets.values[targets.there]
            each = distance(prediction, target, self.options.distance)
        return each.sum(), embedding_figures(prediction, target, each, self.options.distance)

    def validate(self, micro: MicroBatch) -> Figures:
        return {n: f for n, f in self.transfer_part(micro, 0.0).figures.items() if n != "lm_weight"}
