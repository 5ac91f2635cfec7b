"""Plain supervised training with scheduled sampling, which is also what one peer of mutual learning is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.asr.ramp import Ramp
from espnet_ext.asr.scheduled_sampling import DRAWS, own_history, reading
from espnet_ext.errors import UserError
from espnet_ext.train.keys import key
from espnet_ext.train.method import Figures, Loss, MicroBatch, Part, Position, Turn, Updater

#: `sampling_conf` of plain training and its defaults.
DEFAULTS = {"probability": 0.0, "start": 0, "warmup": 0, "draw": "sample"}


@dataclass(frozen=True)
class Sampling:
    """Scheduled sampling: how often (a ramp over optimiser steps), of what, and for whom."""

    probability: Ramp
    draw: str = "sample"
    history: str = "shared"


def make_sampling(
    probability: float, start: int, warmup: int, draw: str, history: str = "own", where: str = "sampling_conf"
) -> Sampling | None:
    """Checked options; None where the probability is 0, which is teacher forcing.

    Raises:
        UserError: a value out of range; ``where`` names the option.
    """
    if not 0 <= probability <= 1:
        raise UserError(f"{where} {probability}: expected a number in [0, 1]")
    ramp = Ramp(probability, start, warmup)
    return Sampling(ramp, draw, history) if probability > 0 else None


def parse_sampling(conf: dict) -> Sampling | None:
    """Check `sampling_conf`.

    Raises:
        UserError: naming the option that is unknown, of another type or out of range.
    """
    if not isinstance(conf, dict):  # in YAML, an empty block is null
        raise UserError(f"sampling_conf: expected options as `name: value`, got {conf!r}")
    if unknown := sorted(map(str, set(conf) - set(DEFAULTS))):
        raise UserError(f"sampling_conf: unknown {', '.join(unknown)}; there are {', '.join(DEFAULTS)}")
    values = {**DEFAULTS, **conf}
    for name, kind, what in (
        ("probability", (int, float), "a number, as 0.1"),
        ("start", int, "a whole number"),
        ("warmup", int, "a whole number"),
    ):
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise UserError(f"sampling_conf: {name} {values[name]!r}: expected {what}")
    if values["draw"] not in DRAWS:
        raise UserError(f"sampling_conf: draw {values['draw']}: expected {' or '.join(DRAWS)}")
    return make_sampling(**values, where="sampling_conf: probability")


def check_decoder(model: ASRModel, who: str = "the model") -> None:
    """Refuse a decoder without two passes.

    Raises:
        UserError: no decoder that is used, or one that is no Transformer's.
    """
    if model.decoder is None or model.ctc_weight == 1.0:
        has = "no attention branch (ctc_weight 1)"
    elif not isinstance(model.decoder, BaseTransformerDecoder):
        has = type(model.decoder).__name__
    else:
        return
    raise UserError(f"scheduled sampling needs a Transformer decoder, and {who} has {has}; leave it out")


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
