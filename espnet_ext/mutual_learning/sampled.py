"""Plain supervised training with scheduled sampling: the control of mutual learning, and what one peer is."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.mutual_learning.options import Sampling
from espnet_ext.mutual_learning.scheduled_sampling import own_history, reading
from espnet_ext.train.keys import key
from espnet_ext.train.method import Figures, Loss, MicroBatch, Part, Position, Turn, Updater


def sampled_outputs(
    model: ASRModel,
    micro: MicroBatch,
    keys: Sequence[int],
    sampling: Sampling,
    step: int,
    keep: Callable[[torch.Tensor], None] | None = None,
) -> ASROutput:
    """Forward pass of a model that reads what it would have written itself.

    Args:
        model: with a Transformer decoder.
        micro: the batch and the keys of its masks.
        keys: one an utterance, from which the draws get keys of their own.
        sampling: see there.
        step: optimiser step, for the probability.
        keep: is told the history (B, U) that was read.
    """
    history = own_history(
        model.decoder,
        [key(each, "scheduled sampling") for each in keys],
        sampling.probability(step),
        [model.sos, model.eos, model.blank_id],
        sampling.draw,
        keep,
    )
    with reading(model.decoder, history):
        return model.outputs(**micro.batch.tensors, keys=micro.keys)


class SampledMethod(JointMethod):
    """Joint CTC/attention training whose decoder reads some of its own labels; see `scheduled_sampling`.

    Args:
        model, updater, loss_norm: as `JointMethod`.
        sampling: how often and what; None is teacher forcing, that is `JointMethod` itself.
    """

    def __init__(
        self,
        model: ASRModel,
        updater: Updater,
        loss_norm: str = "utterance",
        sampling: Sampling | None = None,
    ):
        super().__init__(model, updater, loss_norm)
        self.sampling = sampling

    def turns(self, position: Position):
        if self.sampling is None:
            return super().turns(position)
        return (Turn("model", (Part("labelled", partial(self.sampled_part, position.step)),), ("model",)),)

    def sampled_part(self, step: int, micro: MicroBatch) -> Loss:
        """The joint loss of a micro-batch under its own history."""
        output = sampled_outputs(self.model, micro, micro.keys, self.sampling, step)
        loss = self.joint_loss(output, micro)
        return Loss(loss, self.joint_figures(output, loss, micro))

    def after_step(self, position: Position) -> Figures:
        if self.sampling is None:
            return {}
        return {"sampling": (self.sampling.probability(position.step), 1.0)}
