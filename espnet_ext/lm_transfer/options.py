"""Options of the method, `lm_transfer_conf`, checked before training starts."""

import math
from dataclasses import dataclass, fields

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.distances import DISTANCES
from espnet_ext.lm_transfer.heads import HEADS
from espnet_ext.lm_transfer.targets import KINDS

FORMS = ("surrogate", "exact", "best_path", "predictor")

_CHOICES = {"distance": DISTANCES, "head": HEADS, "targets": KINDS, "form": FORMS}
_OF_LATTICES = ("form", "floor")


@dataclass(frozen=True)
class TransferOptions:
    """`lm_transfer_conf` after its checks; the YAML comments on each."""

    weight: float = 0.1  # lambda
    warmup: int = 0  # optimiser steps in which lambda grows from 0
    stop: float = 1.0  # part of the training after which lambda is 0
    distance: str = "mse"
    head: str = "linear"
    standardise: bool = True
    targets: str = "contextual"
    shift: int = 0
    form: str = "surrogate"  # transducers
    floor: float = (
        0.01  # transducers, surrogate: nodes below this part of a label's largest occupancy are left out
    )

    def weight_at(self, step: int, steps: int) -> float:
        """Lambda of an optimiser step (from 0) of a training of so many, about: passes differ by a few."""
        if self.stop < 1 and step >= self.stop * steps:
            return 0.0
        return self.weight * min(1.0, (step + 1) / (self.warmup + 1))


def parse_conf(conf: dict, transducer: bool = True) -> TransferOptions:
    """Check `lm_transfer_conf`.

    Args:
        conf: as the YAML has it.
        transducer: whether the model has a lattice; without one what is about it would do nothing.

    Raises:
        UserError: naming the option that is unknown, of another type, out of range or without effect.
    """
    if not isinstance(conf, dict):  # in YAML, an empty block is null
        raise UserError(f"lm_transfer_conf: expected options as `name: value`, got {conf!r}")
    known = {field.name: field.default for field in fields(TransferOptions)}
    unknown = sorted(set(conf) - set(known))
    if unknown:
        raise UserError(f"lm_transfer_conf: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    if idle := [name for name in _OF_LATTICES if name in conf and not transducer]:
        raise UserError(
            f"lm_transfer_conf: {', '.join(idle)}: of transducers alone, and this model has an attention "
            "decoder; leave it out, or take --pretrain_config conf/pretrain_transducer.yaml"
        )
    for name, value in conf.items():
        _check(name, value, known[name])
    options = TransferOptions(**conf)
    for name, right, wanted in (
        ("weight", 0 <= options.weight < math.inf, "0 or more, and finite"),
        ("warmup", options.warmup >= 0, "0 or more"),
        ("stop", 0 <= options.stop <= 1, "a part of the training, from 0 to 1"),
        ("floor", 0 <= options.floor < 1, "a number from 0 to below 1"),
    ):
        if not right:
            raise UserError(f"lm_transfer_conf: {name} {getattr(options, name)}: expected {wanted}")
    return options


def _check(name: str, value, default) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise UserError(f"lm_transfer_conf: {name} {value}: expected {', '.join(_CHOICES[name])}")
        return
    kind = type(default)
    # A bool is an int in Python, and YAML reads `1e-3` as a string.
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or isinstance(value, bool) != (kind is bool):
        what = {bool: "true or false", int: "a whole number", float: "a number, as 0.001"}[kind]
        raise UserError(f"lm_transfer_conf: {name} {value!r}: expected {what}")
