"""`bilevel_conf`: what the YAML file says about the method, checked."""

from dataclasses import dataclass, fields

from espnet_ext.bilevel.penalty import GammaSchedule
from espnet_ext.bilevel.phases import Phases
from espnet_ext.errors import UserError
from espnet_ext.ssl.typed import check_mapping, check_types


@dataclass(frozen=True)
class BilevelOptions:
    """Options of the method.

    Args:
        warm_epochs: epochs of the warm start, on the unsupervised loss alone.
        final_epochs: last epochs, supervised alone, at the rate of `optim3`.
        explore_steps: N_low, exploration steps before each joint step.
        gamma_initial, gamma_increment, gamma_maximum, gamma_per: see `GammaSchedule`.
        divide_rate: divide the rate of a joint step by γ once γ > 1, as penalty methods do.
        phi_lr: β_φ, rate of the supervised head in joint steps; None: that of the encoder, in one optimiser
            with it, exactly as in supervised training.
        eta_lr: β_η, rate of the self-supervised head in joint steps; None: that of the encoder.
    """

    warm_epochs: int = 0
    final_epochs: int = 0
    explore_steps: int = 2
    gamma_initial: float = 0.0
    gamma_increment: float = 0.002
    gamma_maximum: float = 1.0
    gamma_per: str = "epoch"
    divide_rate: bool = True
    phi_lr: float | None = None
    eta_lr: float | None = None

    @classmethod
    def from_conf(cls, conf: dict) -> "BilevelOptions":
        """Check names and values.

        Raises:
            UserError: no options, an unknown name or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        check_mapping("bilevel_conf", conf, known)
        unknown = sorted(set(conf) - set(known))
        if unknown:
            raise UserError(f"bilevel_conf: no option {', '.join(unknown)}; there are {', '.join(known)}")
        check_types("bilevel_conf", conf, {field.name: field.default for field in fields(cls)})
        options = cls(**conf)
        for name in ("phi_lr", "eta_lr"):
            rate = getattr(options, name)
            if rate is not None and not 0 < rate < float("inf"):
                raise UserError(f"bilevel_conf {name}: {rate}: expected a rate above 0, or null")
        options.gamma()
        return options

    def gamma(self) -> GammaSchedule:
        """The schedule of γ."""
        return GammaSchedule(self.gamma_initial, self.gamma_increment, self.gamma_maximum, self.gamma_per)

    def phases(self, max_epoch: int) -> Phases:
        """The phases of a training of ``max_epoch`` epochs."""
        joint = max_epoch - self.warm_epochs - self.final_epochs
        return Phases(self.warm_epochs, joint, self.final_epochs, self.explore_steps)
