"""Plain training of a transducer, the control of every method that works on one."""

from functools import partial

import torch

from espnet_ext.asr.transducer import TransducerModel, TransducerOutput
from espnet_ext.asr.transducer_loss import JointNodes
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater


class Tally:
    """Sums over the micro-batch that the nodes' objective leaves behind, detached, for the figures."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        """Add a scalar to a sum."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value


class TransducerMethod(Method):
    """Transducer loss (Graves 2012) with the model's auxiliary losses, normalised over the optimiser step.

    Args:
        model: the recogniser.
        updater: over its parameters.
        loss_norm: `utterance` (sums over utterances of the step) or `token` (over labels, <eos> counted).
        modules, updaters: further ones of a method that adds to this.
    """

    def __init__(
        self,
        model: TransducerModel,
        updater: Updater,
        loss_norm: str = "utterance",
        modules: dict[str, torch.nn.Module] | None = None,
        updaters: dict[str, Updater] | None = None,
    ):
        super().__init__({"model": model, **(modules or {})}, {"model": updater, **(updaters or {})})
        self.model, self.loss_norm = model, loss_norm
        self._turns = (Turn("model", (Part("labelled", self.transducer_part),), ("model",)),)

    def turns(self, position: Position):
        return self._turns

    def transducer_part(self, micro: MicroBatch) -> Loss:
        """The loss of a micro-batch of labelled speech."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        tally = Tally()
        loss = self.model.lattice_loss(
            output, partial(self.plain, denominator=self.denominator(micro), tally=tally)
        )
        return self.result(loss, output, tally, micro)

    def plain(self, nodes: JointNodes, denominator: float, tally: Tally) -> torch.Tensor:
        """Weighted transducer loss of some utterances, divided by the denominator."""
        total = nodes.losses().sum()
        tally.add("transducer", total)
        return self.model.transducer_weight * total / denominator

    def denominator(self, micro: MicroBatch) -> int:
        """What sums are divided by: a total over the whole optimiser step."""
        return micro.totals.labels if self.loss_norm == "token" else micro.totals.utterances

    def result(self, loss, output: TransducerOutput, tally: Tally, micro: MicroBatch, **figures) -> Loss:
        """Loss with the auxiliary losses added, and figures per utterance (`loss` as it is normalised)."""
        count = len(micro.batch.utterances)
        denominator = self.denominator(micro)
        weight = count
        if self.loss_norm == "token":
            weight = int(micro.batch.tensors["text_lengths"].sum()) + count
        loss = loss + self.model.auxiliary_loss(output, denominator)
        found: Figures = {
            "loss": (loss.detach() * denominator, weight),
            "loss_transducer": (tally.sums["transducer"], count),
        }
        for name, total in (("loss_ctc", output.ctc_sum), ("loss_lm", output.lm_sum)):
            if total is not None:
                found[name] = (total.detach(), count)
        return Loss(loss, found | figures)

    def validate(self, micro: MicroBatch) -> Figures:
        return self.transducer_part(micro).figures
