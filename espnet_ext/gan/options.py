"""Options of the method, checked before anything is built."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from espnet_ext.errors import UserError


@dataclass(frozen=True)
class GANOptions:
    """`gan_conf`: how recogniser and critic train against each other.

    Raises:
        UserError: a value out of range.
    """

    lambda_d: float = 1e-4  # weight of the scores in both losses (Haidar 2021, λ_d); 0: the control
    lambda_gp: float = 10.0  # weight of the gradient penalty (λ_gp)
    lambda_d_warmup: int = (
        0  # steps over which the recogniser's λ_d grows from 0; the critic's is whole at once
    )
    order: str = (
        "fused"  # fused: recogniser, then critic, from one forward pass; paper: critic first, from its own
    )
    critic_updates: int = 1  # updates of the critic a step, on the same batch
    smoothing: float = 0.0  # taken from each label of the transcript and spread over the other tokens
    noise: float = 0.0  # at most that much more, drawn for every label
    min_length: int = (
        0  # shorter transcripts (labels with <eos>) are left to the joint loss alone; 0: none may be
    )

    def __post_init__(self):
        for name in ("lambda_d", "lambda_gp", "lambda_d_warmup", "smoothing", "noise", "min_length"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value < float("inf")
            ):
                raise UserError(f"gan_conf: {name}: expected a number not below 0, got {value!r}")
        for name, least in (("lambda_d_warmup", 0), ("critic_updates", 1), ("min_length", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"gan_conf: {name}: expected a whole number not below {least}, got {value!r}")
        if self.order not in ("fused", "paper"):
            raise UserError(f"gan_conf: order: expected fused or paper, got {self.order!r}")
        if self.smoothing + self.noise >= 1:
            raise UserError(
                f"gan_conf: smoothing {self.smoothing} and noise {self.noise} take all of a label away; "
                "their sum must stay below 1"
            )

    def weight(self, step: int) -> float:
        """The recogniser's λ_d in a step of the training, from 0."""
        return (
            self.lambda_d * min(1.0, step / self.lambda_d_warmup) if self.lambda_d_warmup else self.lambda_d
        )


@dataclass(frozen=True)
class AlarmOptions:
    """`alarm_conf`: when to say that the two do not train well.

    Raises:
        UserError: a value out of range.
    """

    action: str = "warn"  # warn: print and count; stop: end the training; off
    interval: int = 25  # steps a window: what is compared is the mean of a window
    patience: int = 4  # windows in a row that must look bad
    loss_rise: float = 0.1  # the recogniser's joint loss above its best window, as a part of it
    saturation: float = 0.9  # gap between transcripts and soft outputs, as a part of what a slope of 1 allows
    penalty: float = 1.0  # gradient penalty; above 1 the slope is above 2, or the critic is flat and worse

    def __post_init__(self):
        if self.action not in ("warn", "stop", "off"):
            raise UserError(f"alarm_conf: action: expected warn, stop or off, got {self.action!r}")
        for name in ("interval", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"alarm_conf: {name}: expected a whole number above 0, got {value!r}")
        for name in ("loss_rise", "saturation", "penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UserError(f"alarm_conf: {name}: expected a number above 0, got {value!r}")


def from_conf(kind: type, name: str, conf: dict):
    """A dataclass of options from the mapping in the YAML.

    Args:
        kind: the dataclass.
        name: what the mapping is called, for messages.
        conf: the mapping.

    Raises:
        UserError: an option that does not exist, with the nearest that does, or a value out of range.
    """
    check_names(name, conf, [field.name for field in dataclasses.fields(kind)])
    return kind(**{option: _number(value) for option, value in conf.items()})


def check_names(name: str, conf: dict, known: Sequence[str]) -> None:
    """Refuse what is no mapping, and options that do not exist.

    Raises:
        UserError: naming the option, and the nearest that does exist.
    """
    if not isinstance(conf, dict):
        raise UserError(f"{name}: expected options as `{known[0]}: ...`, got {conf!r}")
    for option in conf:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{name}: no option {option!r}; there are {', '.join(known)}{hint}")


def _number(value):
    """YAML reads 1e-4 as a text, since there is no dot in it."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
