"""Stage 1: the encoder learns the teachers' embeddings, without transcripts.

Legend: B batch, T frames, D encoder's size, F size of a target.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.distillation.health import VarianceWatch
from espnet_ext.distillation.losses import Heads, codes_sum, cosine_sum, l1_sum, valid_frames
from espnet_ext.distillation.options import EncoderOptions
from espnet_ext.distillation.targets import Targets
from espnet_ext.train.method import (
    Figures,
    Loss,
    Method,
    MicroBatch,
    NBest,
    Part,
    Position,
    Totals,
    Turn,
    Updater,
)
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World


@dataclass(frozen=True)
class TargetTotals(Totals):
    """Totals of a step with the frames that student and teachers have."""

    target_frames: int = 0


class TargetStream(Stream):
    """A stream whose totals know the frames of the targets.

    Args:
        stream: what it is made of, before anything is read of it.
        targets: attached to its data.
        frames: of each utterance that student and teachers have.
    """

    def __init__(self, stream: Stream, targets: Targets, frames: Mapping[str, int]):
        super().__init__(
            stream.name,
            stream.data,
            stream.frame_shift,
            stream.frames_per_step,
            stream.frames_per_micro_batch,
            world=stream.world,
        )
        self.seed, self.targets, self.target_frames = stream.seed, targets, frames

    def totals(self, utterances: list[str]) -> TargetTotals:
        plain = super().totals(utterances)
        return TargetTotals(
            plain.utterances, plain.labels, plain.frames, sum(self.target_frames[u] for u in utterances)
        )


class EncoderMethod(Method):
    """Distillation of embeddings into a transducer's encoder (Yang et al. 2023, stage 1).

    Args:
        model: the student; only its encoder is trained.
        heads: a projection a target.
        updater: over the encoder and the heads.
        targets: see there.
        options: see there.
        streams: `labelled` (its transcripts are not read) and, if there is one, `unlabelled`.
    """

    def __init__(
        self,
        model: TransducerModel,
        heads: Heads,
        updater: Updater,
        targets: Targets,
        options: EncoderOptions,
        streams: Mapping[str, TargetStream],
    ):
        super().__init__({"model": model, "head": heads}, {"encoder": updater})
        self.model, self.heads, self.targets, self.options = model, heads, targets, options
        self.world: World = streams["labelled"].world
        self.watch = VarianceWatch(
            options.variance_steps,
            options.least_variance,
            # Codes are numbers, too: what becomes the same for everything has no variance either.
            {n: size // 256 for n, size in targets.sizes.items()} if targets.codes else targets.sizes,
            next(model.parameters()).device,
        )
        parts = [Part("labelled", self.part)]
        if "unlabelled" in streams:
            parts.append(Part("unlabelled", self.unlabelled_part, "unlabelled"))
        self._turns = (Turn("encoder", tuple(parts), ("encoder",)),)

    def turns(self, position: Position):
        return self._turns

    def part(self, micro: MicroBatch) -> Loss:
        """Distance to the embeddings of a micro-batch: a mean over the frames of the whole step."""
        return self._loss(micro, micro.totals.target_frames, 1.0, "")

    def unlabelled_part(self, micro: MicroBatch) -> Loss:
        """The same on the further stream, a mean over its own frames."""
        weight = self.options.unlabelled_weight
        return self._loss(micro, micro.totals.target_frames, weight, "_unlabelled")

    def validate(self, micro: MicroBatch) -> Figures:
        return self._loss(micro, None, 1.0, "").figures

    def nbest(self) -> dict[str, NBest]:
        # The projections of the same epochs, for those who go on with stage 1 elsewhere.
        return {"": NBest(), "head": NBest("head")}

    def after_step(self, position: Position) -> Figures:
        found = self.watch.check(position.step, self.world)
        return {f"variance_{name}": (value, 1.0) for name, value in found.items()}

    def state(self) -> dict:
        return {"variance": self.watch.state()}

    def load_state(self, state: dict) -> None:
        self.watch.load_state(state["variance"])

    def summary(self) -> dict:
        return {
            "teachers": self.options.weights,
            "rule": self.options.rule,
            "head_parameters": sum(p.numel() for p in self.heads.parameters()),
        }

    def _loss(self, micro: MicroBatch, denominator: float | None, weight: float, suffix: str) -> Loss:
        tensors = micro.batch.tensors
        encoded, lengths = self.model.encode_keyed(tensors["speech"], tensors["speech_lengths"], micro.keys)
        targets = self.targets.batch(micro.batch)
        figures: Figures = {}
        total, count = 0.0, 0
        for name, target in targets.items():
            size = min(encoded.size(1), target.values.size(1))
            there = valid_frames(torch.minimum(lengths, target.lengths), size)  # (B, T)
            predicted, values = self.heads[name](encoded[:, :size]), target.values[:, :size]
            count = int(there.sum())
            if self.targets.codes:
                distance = codes_sum(predicted, values, there)
                figures[f"codes_{name}{suffix}"] = (distance.detach(), count)
            else:
                distance = l1_sum(predicted, values, there)
                figures[f"l1_{name}{suffix}"] = (distance.detach(), count)
                if self.options.cosine:
                    cosine = cosine_sum(predicted, values, there)
                    figures[f"cosine_{name}{suffix}"] = (cosine.detach(), count)
                    distance = distance + self.options.cosine * cosine
            if self.model.training:
                self.watch.see(name, values, there)
            total = total + self.targets.combiner.loss_weights[name] * distance
        figures[f"loss{suffix}"] = (total.detach(), count)
        return Loss(weight * total / max(1, denominator or count), figures)
