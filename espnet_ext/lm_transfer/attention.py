"""Embedding prediction by the state of an attention decoder (Kubo et al. 2022, "attention-based decoders").

    L = L_joint + λ Σ_u d(g(s_u), e_u)

s_u is the decoder state that predicts label u, before the output layer; e_u the LM's embedding of that label,
computed from the whole reference. The decoder sees it nowhere: it must predict it from y_<u and the speech.

Legend: B batch, U labels with <eos>, D size of a state, E size of an embedding, N labels that have a target.
"""

import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASROutput
from espnet_ext.lm_transfer.distances import distance, explained
from espnet_ext.lm_transfer.method import Transfer
from espnet_ext.lm_transfer.targets import TargetBatch
from espnet_ext.train.method import Figures, Loss, MicroBatch
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


class AttentionTransfer(Transfer, JointMethod):
    """Joint training of a recogniser with a Transformer decoder that also predicts the embeddings.

    With a weight of 0 the recogniser's training is the control's to the bit, and the head gets no gradient
    but zeros.
    """

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
