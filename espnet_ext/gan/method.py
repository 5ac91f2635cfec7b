"""Turns of adversarial fine-tuning: the recogniser against the critic, the critic against the recogniser.

Legend: B utterances, U positions (labels with <eos>), V tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.errors import UserError
from espnet_ext.gan.alarm import Alarm, Window
from espnet_ext.gan.critic import Critic
from espnet_ext.gan.health import critic_figures, recogniser_figures
from espnet_ext.gan.losses import Score, adversarial_loss, critic_terms
from espnet_ext.gan.options import AlarmOptions, GANOptions
from espnet_ext.gan.sequences import draw_mix, draw_smoothing, real_sequences
from espnet_ext.train.method import KEPT, Figures, Loss, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.precision import full_precision
from espnet_ext.train.world import World


@dataclass
class SoftOutputs:
    """What the decoder said under teacher forcing, beside what it should have said."""

    fake: torch.Tensor  # (B, U, V) softmax in fp32, zero in padding
    targets: torch.Tensor  # (B, U) labels with <eos>, negative in padding
    lengths: torch.Tensor  # (B,) positions; 0 where the utterance is left to the joint loss
    pairs: int  # utterances that are not

    def detached(self) -> "SoftOutputs":
        return replace(self, fake=self.fake.detach())


class GANMethod(JointMethod):
    """Joint training with a critic on the decoder's soft outputs (Haidar 2021, algorithm 1 and equation 5).

    The recogniser minimises its joint loss - λ_d D(fake), the critic λ_d (D(fake) - D(real)) + λ_gp penalty;
    fake is the decoder's softmax under teacher forcing, real the transcript. CTC's output never reaches the
    critic.

    Args:
        model: the recogniser.
        updater: over its parameters.
        critic, critic_updater: its opponent.
        options, alarms: see there.
        loss_norm: `utterance` (the one that λ_d is quoted for) or `token`.
        world: the processes that train together.
    """

    def __init__(
        self,
        model: ASRModel,
        updater: Updater,
        critic: Critic,
        critic_updater: Updater,
        options: GANOptions,
        alarms: AlarmOptions,
        loss_norm: str = "utterance",
        world: World | None = None,
    ):
        super().__init__(model, updater, loss_norm, {"critic": critic}, {"critic": critic_updater})
        self.critic, self.options, self.alarms = critic, options, alarms
        self.world = world or World()
        self.alarm = Alarm(alarms)
        self.alarm_messages: list[str] = []
        self._turns = self._plan()
        # Sums since the last look: loss, its weight, gap, distance, penalty, pairs.
        self._step_sums = torch.zeros(6, dtype=torch.float64, device=self.world.device)
        self._window = torch.zeros_like(self._step_sums)

    def _plan(self) -> tuple[Turn, ...]:
        recogniser = Turn("recogniser", (Part("labelled", self.recogniser_part),), ("model",))
        if self.options.order == "fused":
            # One forward pass of the recogniser: what its turn saw is kept for the critic's.
            updates = [KEPT + "recogniser"] * self.options.critic_updates
        else:
            # The critic's pass draws what the recogniser's will draw (key "model"), so both see the same.
            updates = ["labelled"] + [KEPT + "critic"] * (self.options.critic_updates - 1)
        critic = tuple(
            Turn(
                f"critic{number or ''}",
                (Part(source, lambda micro, n=number: self.critic_part(micro, n)),),
                ("critic",),
            )
            for number, source in enumerate(updates)
        )
        return (recogniser, *critic) if self.options.order == "fused" else (*critic, recogniser)

    def recogniser_part(self, micro: MicroBatch) -> Loss:
        """The joint loss and the adversarial term; the critic's parameters get nothing."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        joint = self.joint_loss(output, micro)
        with full_precision(joint.device):
            soft = self.soft_outputs(output)
            scores = self.score_of(soft, micro, "recogniser")(soft.fake, soft.lengths)
            denominator = micro.totals.labels if self.loss_norm == "token" else micro.totals.utterances
            weight = self.options.weight(micro.number[0])
            adversarial = adversarial_loss(scores, weight, denominator)
            figures = self.joint_figures(output, joint, micro)
            figures |= recogniser_figures(
                output, soft.fake, scores, soft.pairs, joint, adversarial, denominator, figures["loss"][1]
            )
            figures["lambda_d"] = (weight * len(scores), len(scores))
        count = partial(self._count, 0, figures["loss"])
        return Loss(joint + adversarial, figures, soft.detached(), count)

    def critic_part(self, micro: MicroBatch, update: int = 0) -> Loss:
        """The critic's loss; the recogniser's parameters get nothing.

        Args:
            micro: with what the recogniser's turn or an earlier update kept; without, the soft outputs are
                computed.
            update: number of this update in the step; each draws other points between real and fake.
        """
        soft = micro.kept if micro.kept is not None else self._soft_outputs_again(micro)
        purpose = f"critic {update}"
        with full_precision(soft.fake.device):
            real = self.real_of(soft, micro, purpose)
            mix = draw_mix(micro.keys, purpose).to(real)
            both = torch.cat([real, soft.fake]), torch.cat([soft.lengths, soft.lengths])
            # One pass over both sides: a BatchNorm's statistics are those of both, also between them.
            scores, statistics = self.critic(*both)
            terms = critic_terms(
                lambda sequences, lengths: self.critic(sequences, lengths, statistics)[0],
                real,
                soft.fake,
                soft.lengths,
                mix,
                scores.chunk(2),
            )
            loss = terms.loss(self.options.lambda_d, self.options.lambda_gp, micro.totals.utterances)
        figures = critic_figures(terms, soft.pairs, loss, micro.totals.utterances)
        with torch.no_grad():
            sums = [(terms.real - terms.fake).sum(), terms.distance.sum(), terms.penalty.sum()]
            sums.append((terms.distance > 0).sum())
        return Loss(loss, figures, soft, partial(self._count, 2, sums))

    def validate(self, micro: MicroBatch) -> Figures:
        """The joint figures, and how far apart the critic holds the two sides."""
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        figures = self.joint_figures(output, self.joint_loss(output, micro), micro)
        with full_precision(output.decoder_out.device):
            soft = self.soft_outputs(output)
            score = self.score_of(soft, micro, "validation")
            gap = score(self.real_of(soft, micro, "validation"), soft.lengths) - score(
                soft.fake, soft.lengths
            )
            peak = soft.fake.amax(-1).sum()
        return figures | {"critic_gap": (gap.sum(), soft.pairs), "peak": (peak, output.labels)}

    def soft_outputs(self, output: ASROutput) -> SoftOutputs:
        """The decoder's distributions in fp32, with their gradient."""
        targets = output.targets
        there = targets != self.model.ignore_id
        lengths = there.sum(1)
        fake = output.decoder_out.softmax(-1).masked_fill(~there[..., None], 0.0)
        shortest = max(self.options.min_length, self.critic.reach)
        # Training data without a `min_length` were checked before; a look at the device would wait for it.
        all_there = self.model.training and not self.options.min_length
        pairs = len(lengths) if all_there else int((lengths >= shortest).sum())
        lengths = lengths.masked_fill(lengths < shortest, 0)
        return SoftOutputs(fake, targets.masked_fill(~there, -1), lengths, pairs)

    def real_of(self, soft: SoftOutputs, micro: MicroBatch, purpose: str) -> torch.Tensor:
        """(B, U, V): the transcripts as the critic gets them, smoothed as the options say."""
        o = self.options
        smoothing: float | torch.Tensor = o.smoothing
        if o.noise and micro.keys is not None:
            positions = [soft.targets.size(1)] * len(micro.keys)
            smoothing = draw_smoothing(micro.keys, purpose, positions, o.smoothing, o.noise)
        elif o.noise:  # validation draws nothing: the mean
            smoothing = o.smoothing + o.noise / 2
        return real_sequences(soft.targets, soft.fake.size(-1), smoothing)

    def score_of(self, soft: SoftOutputs, micro: MicroBatch, purpose: str) -> Score:
        """The critic as a fixed function: with a BatchNorm, its statistics of both sides are constants."""
        statistics = None
        if self.critic.coupled:
            with torch.no_grad():
                real = self.real_of(soft, micro, purpose)
                both = torch.cat([real, soft.fake]), torch.cat([soft.lengths, soft.lengths])
                _, statistics = self.critic(*both)
        return lambda sequences, lengths: self.critic(sequences, lengths, statistics)[0]

    def _soft_outputs_again(self, micro: MicroBatch) -> SoftOutputs:
        with torch.no_grad(), _buffers_left_alone(self.model):
            output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
            with full_precision(output.decoder_out.device):
                return self.soft_outputs(output)

    def _count(self, first: int, sums: Sequence[torch.Tensor]) -> None:
        """Add to this step's sums from the ``first``, on the device."""
        for number, value in enumerate(sums, first):
            self._step_sums[number] += value

    def after_step(self, position: Position) -> Figures:
        """Look at a window of steps once it is full.

        Raises:
            UserError: an alarm, with `action: stop`.
        """
        # Everybody's sums, so that all processes see the same alarm, and a resumed run the same window.
        sums = self.world.sum(self._step_sums)
        # A step whose loss is not finite is the loop's to report.
        self._window += torch.where(sums.isfinite().all(), sums, torch.zeros_like(sums))
        self._step_sums = torch.zeros_like(sums)
        if self.alarms.action == "off" or (position.step + 1) % self.alarms.interval:
            return {}
        loss, weight, gap, distance, penalty, pairs = self._window.tolist()
        self._window = torch.zeros_like(self._window)
        if not weight or not pairs:
            return {}
        messages = self.alarm.check(Window(loss / weight, gap / pairs, distance / pairs, penalty / pairs))
        for message in messages:
            text = f"step {position.step + 1}: {message}"
            self.alarm_messages.append(text)
            if self.alarms.action == "stop":
                raise UserError(
                    f"alarm: {text}. The training has ended here (alarm_conf: action: stop); with action: "
                    "warn it goes on from its last checkpoint"
                )
            if self.world.first:
                print(f"alarm: {text}", flush=True)
        return {"alarms": (len(messages) / self.world.size, 1 / self.world.size)}

    def state(self) -> dict:
        """The window under way and what came before it."""
        return {
            "alarm": self.alarm.state(),
            "alarm_messages": list(self.alarm_messages),
            "window": self._window.tolist(),
        }

    def load_state(self, state: dict) -> None:
        self.alarm.load_state(state["alarm"])
        self.alarm_messages = list(state["alarm_messages"])
        self._window = torch.tensor(state["window"], dtype=torch.float64, device=self.world.device)

    def summary(self) -> dict:
        """What the report says of the critic."""
        return {
            "critic_parameters": sum(p.numel() for p in self.critic.parameters()),
            "lambda_d": self.options.lambda_d,
            "alarms": self.alarm_messages,
        }


@contextlib.contextmanager
def _buffers_left_alone(module: torch.nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers in training mode do not move their running statistics."""
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
