"""Plain supervised training, the control of every method."""

import torch

from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater


class JointMethod(Method):
    """Joint CTC/attention training (Watanabe et al. 2017, equation 4), normalised over the optimiser step.

    Args:
        model: the recogniser.
        updater: over its parameters.
        loss_norm: `utterance` (sums over utterances of the step, as ESPnet) or `token`.
        modules, updaters: further ones of a method that adds to this.
    """

    def __init__(
        self,
        model: ASRModel,
        updater: Updater,
        loss_norm: str = "utterance",
        modules: dict[str, torch.nn.Module] | None = None,
        updaters: dict[str, Updater] | None = None,
    ):
        super().__init__({"model": model, **(modules or {})}, {"model": updater, **(updaters or {})})
        self.model, self.loss_norm = model, loss_norm
        self._turns = (Turn("model", (Part("labelled", self.joint_part),), ("model",)),)

    def turns(self, position: Position):
        return self._turns

    def joint_part(self, micro: MicroBatch) -> Loss:
        """The joint loss of a micro-batch of labelled speech."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        loss = self.joint_loss(output, micro)
        return Loss(loss, self.joint_figures(output, loss, micro))

    def joint_loss(self, output: ASROutput, micro: MicroBatch) -> torch.Tensor:
        """The micro-batch's share of the step's joint loss."""
        labels = micro.totals.labels if self.loss_norm == "token" else None
        return self.model.joint_loss(output, micro.totals.utterances, labels)

    def joint_figures(self, output: ASROutput, loss: torch.Tensor, micro: MicroBatch) -> Figures:
        """Losses per utterance (`loss` per label with `loss_norm: token`) and the labels' accuracy."""
        count = len(micro.batch.utterances)
        if self.loss_norm == "token":
            weight = int(micro.batch.tensors["text_lengths"].sum()) + count
            figures: Figures = {"loss": (loss.detach() * micro.totals.labels, weight)}
        else:
            figures = {"loss": (loss.detach() * micro.totals.utterances, count)}
        if output.ctc_sum is not None:
            figures["loss_ctc"] = (output.ctc_sum.detach(), count)
        if output.att_sum is not None:
            figures["loss_att"] = (output.att_sum.detach(), count)
            figures["acc"] = (output.correct, output.labels)
        return figures

    def validate(self, micro: MicroBatch) -> Figures:
        return self.joint_part(micro).figures
