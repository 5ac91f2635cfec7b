"""What predicting embeddings has in common, whatever kind of decoder does it.

A head beside the recogniser is updated and clipped on its own; the term's weight goes by the step.
"""

from collections.abc import Sequence
from functools import partial

import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import TransferOptions
from espnet_ext.lm_transfer.targets import Targets
from espnet_ext.train.method import Loss, MicroBatch, Part, Position, Turn, Updater


class Transfer:
    """Stands before the control's class among the bases of a method, and adds the head to it.

    Args:
        model: the recogniser.
        updater: over its parameters.
        head: g.
        head_updater: over the head's parameters.
        targets: e.
        options: see there.
        steps: optimiser steps of the whole training.
        loss_norm: as the control's; the embedding's term is divided by the same number.
    """

    def __init__(
        self,
        model: torch.nn.Module,
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

    def state(self) -> dict:
        return {"targets": self.targets.store.fingerprint}

    def load_state(self, state: dict) -> None:
        """Refuse to go on with other targets than those that the training began with.

        Raises:
            UserError: stage 7 has run again since, with another LM, other layers or other tokens.
        """
        store = self.targets.store
        if state.get("targets", store.fingerprint) != store.fingerprint:
            raise UserError(
                f"{store.folder}: these embeddings are others than those that this training began with (LM, "
                "layers or tokens have changed since); run stage 7 (targets) with the former ones, or begin "
                "anew with --resume false"
            )

    def transfer_part(self, micro: MicroBatch, weight: float) -> Loss:
        """The control's loss and λ times the embedding's, of a micro-batch."""
        raise NotImplementedError
