"""The two levels on one encoder: what each kind of step computes, and what it updates.

Parameters: θ encoder, φ supervised head (decoder, CTC, joint network), η self-supervised head. Rates: α lower
level, β upper level.
"""

from collections.abc import Mapping
from contextlib import nullcontext

from espnet_ext.bilevel.options import BilevelOptions
from espnet_ext.bilevel.penalty import divide_rate_by, gradient_scale
from espnet_ext.bilevel.phases import EXPLORE, FINAL, JOINT, WARM, Phases
from espnet_ext.bilevel.rounds import Rounds
from espnet_ext.bilevel.statistics import SeparateStatistics
from espnet_ext.ssl.method import UNLABELLED_KEY
from espnet_ext.ssl.objective import SSLObjective
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.streams import Stream


class BilevelMethod(Rounds):
    """BL-JUST (Cui, Saif et al. 2024).

    | step | update |
    |---|---|
    | warm, explore | (θ, η) ← (θ, η) − α ∇ ℓ_unsup |
    | joint | θ ← θ − β (∇ ℓ_sup + γ ∇ ℓ_unsup), φ ← φ − β_φ ∇ ℓ_sup, η ← η − β_η ∇ ℓ_unsup |
    | final | (θ, φ) ← (θ, φ) − β_final ∇ ℓ_sup |

    Both losses are means, ℓ_sup over labels and ℓ_unsup over predictions. Each level has an optimiser state
    of its own for θ, and so has the final fine-tuning.

    Args:
        control: plain supervised training of the same recogniser; its loss is ℓ_sup.
        objective: ℓ_unsup with η.
        options, phases, streams, hours_per_frame: see `Rounds`.
        updaters: `upper` (θ and φ, or θ alone), `phi` (φ if it has a rate of its own), `eta`, `lower` (θ and
            η), `final` (θ and φ); those that the phases need.
    """

    def __init__(
        self,
        control: Method,
        objective: SSLObjective,
        options: BilevelOptions,
        phases: Phases,
        streams: Mapping[str, Stream],
        updaters: dict[str, Updater],
        hours_per_frame: float | None = None,
    ):
        modules = {**control.modules, "unsupervised": objective}
        self.objective = objective
        self.separate = SeparateStatistics(modules["model"].encoder)
        if len(self.separate):
            modules["unlabelled_statistics"] = self.separate
        super().__init__(control, options, phases, streams, modules, updaters, hours_per_frame)
        if options.divide_rate:
            for name in ("upper", "phi"):
                if name in updaters:
                    divide_rate_by(updaters[name].optimizer, lambda: max(1.0, self.gamma))

    def turns_by_kind(self) -> dict[str, tuple[Turn, ...]]:
        lower = Part("unlabelled", self.lower_part, UNLABELLED_KEY)
        penalty = Part("unlabelled", self.penalty_part, UNLABELLED_KEY)
        upper = tuple(name for name in ("upper", "phi", "eta") if name in self.updaters)
        return {
            WARM: (Turn(WARM, (lower,), ("lower",)),),
            EXPLORE: (Turn(EXPLORE, (lower,), ("lower",)),),
            JOINT: (Turn(JOINT, (self.supervised(), penalty), upper),),
            FINAL: (Turn(FINAL, (self.supervised(),), ("final",)),),
        }

    def lower_part(self, micro: MicroBatch) -> Loss:
        """ℓ_unsup of unlabelled speech."""
        with self._own_statistics():
            return self.objective.loss(self.model, micro)

    def penalty_part(self, micro: MicroBatch) -> Loss:
        """ℓ_unsup of unlabelled speech, whose gradient goes into θ times γ, and into η as it is."""
        gamma = self.gamma
        with self._own_statistics():
            loss = self.objective.loss(self.model, micro, lambda encoded: gradient_scale(encoded, gamma))
        total, count = loss.figures["loss_unsupervised"]
        loss.figures["loss_unsupervised_times_gamma"] = (gamma * total, count)
        return loss

    def validate(self, micro: MicroBatch) -> Figures:
        """The control's figures, and ℓ_unsup with fixed masks as long as it is trained."""
        figures = super().validate(micro)
        if self.phase != FINAL:
            with self._own_statistics():
                figures |= self.objective.validate(self.model, micro)
        return figures

    def after_step(self, position: Position) -> Figures:
        if self.phases.kind(position) != FINAL:
            self.objective.check_health(self.streams["unlabelled"].world, position.step)
        return super().after_step(position)

    def state(self) -> dict:
        return super().state() | {"alarms": list(self.objective.alarmed)}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.objective.alarmed = list(state.get("alarms", []))  # checkpoints of before have none

    def summary(self) -> dict:
        """As all rounds', and what looked collapsed."""
        return super().summary() | {"self_supervised": self.objective.name, "alarms": self.objective.alarmed}

    def _own_statistics(self):
        return self.separate.inside() if len(self.separate) else nullcontext()
