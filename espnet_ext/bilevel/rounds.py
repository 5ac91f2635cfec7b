"""What trainings on labelled and unlabelled batches in rounds share: phases, γ, counts of what was read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from espnet_ext.bilevel.options import BilevelOptions
from espnet_ext.bilevel.phases import EXPLORE, FINAL, JOINT, WARM, Phases
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.streams import Stream

#: Figure of ℓ_sup, per label.
SUPERVISED = "loss_supervised"


class Rounds(Method):
    """Phases and bookkeeping; subclasses say what the kinds of steps compute.

    Args:
        control: plain supervised training of the same recogniser, whose loss is used as it is.
        options, phases: when which step comes, and with which γ.
        streams: `labelled` and `unlabelled`.
        modules: the recogniser and what is trained beside it.
        updaters: by name.
        hours_per_frame: duration of a feature frame; None where it is not known.
    """

    def __init__(
        self,
        control: Method,
        options: BilevelOptions,
        phases: Phases,
        streams: Mapping[str, Stream],
        modules: dict[str, torch.nn.Module],
        updaters: dict[str, Updater],
        hours_per_frame: float | None = None,
    ):
        super().__init__(modules, updaters)
        self.control, self.options, self.phases, self.streams = control, options, phases, streams
        self.model = modules["model"]
        self.hours_per_frame = hours_per_frame
        self.schedule = options.gamma()
        self.counts = dict.fromkeys((WARM, EXPLORE, JOINT, FINAL), 0)
        self.gamma = self.schedule.at(0, 0)
        self.phase = phases.phase(1)
        self._turns = self.turns_by_kind()

    def turns_by_kind(self) -> dict[str, tuple[Turn, ...]]:
        """Turns of each kind of step that the phases have."""
        raise NotImplementedError

    def supervised(self) -> Part:
        """The control's one loss, ℓ_sup, whose figure has a name beside the control's own.

        Other trainings log theirs as `loss` too, and most of them per utterance: another scale.
        """
        part = self.control_part()

        def named(micro: MicroBatch) -> Loss:
            loss = part.loss(micro)
            loss.figures[SUPERVISED] = loss.figures["loss"]
            return loss

        return replace(part, loss=named)

    def control_part(self) -> Part:
        """The one loss of the control's one turn."""
        (turn,) = self.control.turns(Position(1, 0, 0))
        (part,) = turn.parts
        return part

    def epoch_steps(self, epoch: int, streams: Mapping) -> int:
        labelled = streams["labelled"].steps(self.phases.labelled_pass(epoch))
        return self.phases.steps(epoch, labelled)

    def turns(self, position: Position) -> Sequence[Turn]:
        return self._turns[self.phases.kind(position)]

    def kinds_of_steps(self) -> Sequence[Sequence[Turn]]:
        return [self._turns[kind] for kind in self.phases.kinds()]

    def validate(self, micro: MicroBatch) -> Figures:
        """The control's figures, and `error`, the part of the labels that the decoder gets wrong."""
        figures = dict(self.control.validate(micro))
        figures[SUPERVISED] = figures["loss"]
        if "acc" in figures:
            right, labels = figures["acc"]
            figures["error"] = (labels - right, labels)
        return figures

    def after_step(self, position: Position) -> Figures:
        kind = self.phases.kind(position)
        figures: Figures = {"gamma": (self.gamma, 1.0)} if kind == JOINT else {}
        self.counts[kind] += 1
        ends = position.step_in_epoch + 1 == self.epoch_steps(position.epoch, self.streams)
        # What the next step begins with. The phase stays until then: the epoch's validation belongs to it.
        self.phase = self.phases.phase(position.epoch)
        epochs = min(max(0, position.epoch - self.phases.warm - (not ends)), self.phases.joint)
        self.gamma = self.schedule.at(self.counts[JOINT], epochs)
        return figures | (self._use_figures() if ends else {})

    def use(self) -> dict[str, tuple[int, int, float, float | None]]:
        """(batches, frames, passes, hours) read of each stream so far; hours None where frames have none."""
        found = {}
        for name, kinds in (("labelled", (JOINT, FINAL)), ("unlabelled", (WARM, EXPLORE, JOINT))):
            stream = self.streams[name]
            whole, at = sum(stream.lengths.values()), stream.position
            begun = stream.plan(at["pass"])[: at["step"]] if at["step"] else []
            frames = (at["pass"] - 1) * whole
            frames += sum(stream.totals(step.utterances).frames for step in begun)
            hours = frames * self.hours_per_frame if self.hours_per_frame is not None else None
            found[name] = (sum(self.counts[kind] for kind in kinds), frames, frames / whole, hours)
        return found

    def state(self) -> dict:
        return {"counts": dict(self.counts), "gamma": self.gamma, "phase": self.phase}

    def load_state(self, state: dict) -> None:
        self.counts, self.gamma, self.phase = dict(state["counts"]), state["gamma"], state["phase"]

    def summary(self) -> dict:
        """Batches, passes and hours of both streams, steps of each kind, and the last γ.

        `encoder_frames` are the feature frames that the encoder was trained on, each once a pass over it.
        """
        use = self.use()
        entries: dict = {"steps_of_each_kind": dict(self.counts), "gamma": self.gamma}
        entries["encoder_frames"] = sum(frames for _, frames, _, _ in use.values())
        for name, (batches, _, passes, hours) in use.items():
            entries |= {f"{name}_batches": batches, f"{name}_passes": round(passes, 4)}
            if hours is not None:
                entries[f"{name}_hours"] = round(hours, 4)
        return entries

    def _use_figures(self) -> Figures:
        figures: Figures = {}
        for name, (_, _, passes, hours) in self.use().items():
            figures[f"{name}_passes"] = (passes, 1.0)
            if hours is not None:
                figures[f"{name}_hours"] = (hours, 1.0)
        return figures
