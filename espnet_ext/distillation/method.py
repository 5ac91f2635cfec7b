"""Stage 2: the encoder of stage 1 becomes a transducer.

Legend: B batch, T frames, U labels.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

import torch

from espnet_ext.asr.transducer import TransducerModel, TransducerOutput
from espnet_ext.asr.transducer_method import Tally, TransducerMethod
from espnet_ext.distillation.frames import common_length
from espnet_ext.distillation.options import StudentOptions
from espnet_ext.distillation.path import (
    best_emissions,
    greedy_emissions,
    node_scores,
    path_divergence,
    path_nodes,
    shifted,
)
from espnet_ext.distillation.targets import clean_audio
from espnet_ext.train.data import Batch
from espnet_ext.train.method import Figures, Loss, MicroBatch, Part, Position, Turn, Updater

#: What a recogniser reads of a batch; there may be the teacher's audio beside it.
_SPEECH = ("speech", "speech_lengths", "text", "text_lengths")


class DistillationMethod(TransducerMethod):
    """Transducer training with an encoder that waits, and a teacher's alignment to follow.

    Args:
        model: the student.
        updater: over all its parameters. Those of the encoder get no gradient in the first updates, and an
            optimiser leaves what has no gradient alone.
        options: see there.
        loss_norm: as TransducerMethod's.
        teacher: a frozen transducer of the same tokens and frame rate, or None.
        stage1: summary of the training whose encoder this one starts from, for this one's summary.
    """

    def __init__(
        self,
        model: TransducerModel,
        updater: Updater,
        options: StudentOptions,
        loss_norm: str = "utterance",
        teacher: TransducerModel | None = None,
        stage1: Mapping | None = None,
    ):
        super().__init__(model, updater, loss_norm)
        self.stage1 = stage1
        self.options = options
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self.updates = 0
        # A step that is skipped for want of a finite gradient is no update.
        updater.optimizer.register_step_post_hook(self._count)
        self._frozen = (Turn("model", (Part("labelled", self.frozen_part),), ("model",)),)

    def turns(self, position: Position):
        return self._frozen if self.updates < self.options.freeze_updates else self._turns

    def kinds_of_steps(self):
        return [self._turns]  # what needs most memory

    def frozen_part(self, micro: MicroBatch) -> Loss:
        """The loss of a micro-batch that the encoder hears nothing of."""
        return self._part(micro, frozen=True)

    def transducer_part(self, micro: MicroBatch) -> Loss:
        """The loss of a micro-batch of labelled speech."""
        return self._part(micro, frozen=False)

    def validate(self, micro: MicroBatch) -> Figures:
        output = self.model.outputs(**self._speech(micro.batch), keys=micro.keys)
        return self._plain(micro, output)[0].figures

    def state(self) -> dict:
        return {"updates": self.updates}

    def load_state(self, state: dict) -> None:
        self.updates = int(state["updates"])

    def summary(self) -> dict:
        found: dict = {"frozen_updates": min(self.updates, self.options.freeze_updates)}
        if self.stage1:
            # What the student has cost before; comparisons of equal compute count it.
            wanted = ("teachers", "steps", "seconds", "batches", "frames")
            found["stage1"] = {name: self.stage1[name] for name in wanted if name in self.stage1}
        return found

    def _count(self, *_) -> None:
        self.updates += 1

    def _part(self, micro: MicroBatch, frozen: bool) -> Loss:
        with _waiting(self.model.encoder) if frozen else contextlib.nullcontext():
            output = self.model.outputs(**self._speech(micro.batch), keys=micro.keys)
        loss, denominator = self._plain(micro, output)
        if self.teacher is None:
            return loss
        divergence, count = self.path_loss(micro.batch, output)
        loss.loss = loss.loss + self.options.path_weight * divergence.sum() / denominator
        loss.figures["loss_path"] = (divergence.detach().sum(), len(divergence))
        loss.figures["path_nodes"] = (count, len(divergence))
        return loss

    def _plain(self, micro: MicroBatch, output: TransducerOutput) -> tuple[Loss, int]:
        tally, denominator = Tally(), self.denominator(micro)
        objective = partial(self.plain, denominator=denominator, tally=tally)
        loss = self.model.lattice_loss(output, objective)
        return self.result(loss, output, tally, micro), denominator

    def path_loss(self, batch: Batch, output: TransducerOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Divergence from the teacher along its path.

        Args:
            batch: with the clean audio that the teacher hears.
            output: of the student.

        Returns:
            (B,) divergences, and the number of nodes.
        """
        options = self.options
        with torch.no_grad():
            theirs = self.teacher.outputs(**self._speech(batch) | self._clean(batch))
            for utterance, own, other in zip(
                batch.utterances,
                output.encoder_out_lens.tolist(),
                theirs.encoder_out_lens.tolist(),
                strict=True,
            ):
                common_length(own, other, options.tolerance, utterance, "--path_teacher")
            emissions = (
                greedy_emissions(self.teacher.joint_network, theirs)
                if options.path == "greedy"
                else best_emissions(self.teacher, theirs)
            )
            nodes = path_nodes(emissions, theirs.encoder_out_lens.long(), theirs.target_lens.long())
            wanted = node_scores(self.teacher.joint_network, theirs.encoder_out, theirs.predictor_out, nodes)
        own = shifted(nodes, options.shift, output.encoder_out_lens)
        scores = node_scores(self.model.joint_network, output.encoder_out, output.predictor_out, own)
        per_node = options.path_norm == "node"
        divergence = path_divergence(scores, wanted, own.there, options.temperature, per_node)
        return divergence, own.there.sum()

    @staticmethod
    def _speech(batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch.tensors[name] for name in _SPEECH}

    @staticmethod
    def _clean(batch: Batch) -> dict[str, torch.Tensor]:
        """The batch's speech without noise and rooms."""
        device = batch.tensors["speech"].device
        audio = [torch.from_numpy(samples) for samples in clean_audio(batch)]
        return {
            "speech": torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device),
            "speech_lengths": torch.tensor([len(samples) for samples in audio], device=device),
        }


@contextlib.contextmanager
def _waiting(encoder: torch.nn.Module) -> Iterator[None]:
    """Inside, a forward pass leaves no way for gradients into the encoder, and its running statistics be."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    trained = [p for p in encoder.parameters() if p.requires_grad]
    norms = [module for module in encoder.modules() if isinstance(module, kind) and module.training]
    for parameter in trained:
        parameter.requires_grad_(False)
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.train()
