"""`mutual_learning_conf`, checked before anything is built."""

import math
from dataclasses import dataclass

from espnet_ext.asr.ramp import Ramp
from espnet_ext.asr.sampled import Sampling, make_sampling
from espnet_ext.asr.scheduled_sampling import DRAWS
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.losses import FORMS, check_weight

#: `mutual_learning_conf` and its defaults; conf/finetune_mutual_learning.yaml says what each is.
DEFAULTS = {
    "weight": 0.5,
    "weight_start": 0,
    "weight_warmup": 0,
    "hard_weight": "complement",
    "form": "cross_entropy",
    "temperature": 1.0,
    "ctc": False,
    "masks": "independent",
    "order": "simultaneous",
    "sampling": 0.0,
    "sampling_start": 0,
    "sampling_warmup": 0,
    "sampling_draw": "sample",
    "sampling_history": "shared",
}

#: Options that have a few values.
CHOICES = {
    "hard_weight": ("complement", "full"),
    "form": FORMS,
    "masks": ("independent", "shared"),
    "order": ("simultaneous", "sequential"),
    "sampling_draw": DRAWS,
    "sampling_history": ("shared", "own"),
}


@dataclass(frozen=True)
class MutualOptions:
    """`mutual_learning_conf` after its checks."""

    weight: Ramp
    full_hard: bool = False
    form: str = "cross_entropy"
    temperature: float = 1.0
    ctc: bool = False
    shared_masks: bool = False
    sequential: bool = False
    sampling: Sampling | None = None


def parse_conf(conf: dict) -> MutualOptions:
    """Check `mutual_learning_conf`.

    Raises:
        UserError: naming the option that is unknown, of another type or out of range.
    """
    if not isinstance(conf, dict):  # in YAML, an empty block is null
        raise UserError(f"mutual_learning_conf: expected options as `name: value`, got {conf!r}")
    unknown = sorted(map(str, set(conf) - set(DEFAULTS)))
    if unknown:
        raise UserError(
            f"mutual_learning_conf: unknown {', '.join(unknown)}; there are {', '.join(sorted(DEFAULTS))}"
        )
    values = {**DEFAULTS, **conf}
    for name, value in values.items():
        _check_type(name, value)
    check_weight(values["weight"], values["hard_weight"] == "full")
    if not 0 < values["temperature"] < math.inf:
        raise UserError(
            f"mutual_learning_conf: temperature {values['temperature']}: expected more than 0, and finite"
        )
    sampling = [values[f"sampling{of}"] for of in ("", "_start", "_warmup", "_draw", "_history")]
    return MutualOptions(
        weight=Ramp(values["weight"], values["weight_start"], values["weight_warmup"]),
        full_hard=values["hard_weight"] == "full",
        form=values["form"],
        temperature=values["temperature"],
        ctc=values["ctc"],
        shared_masks=values["masks"] == "shared",
        sequential=values["order"] == "sequential",
        sampling=make_sampling(*sampling, where="mutual_learning_conf: sampling"),
    )


def _check_type(name: str, value) -> None:
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise UserError(f"mutual_learning_conf: {name} {value}: expected {' or '.join(CHOICES[name])}")
        return
    kind = type(DEFAULTS[name])
    # A bool is an int in Python, and YAML reads `1e-3` as a string.
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or isinstance(value, bool) != (kind is bool):
        what = {bool: "true or false", int: "a whole number", float: "a number, as 0.001"}[kind]
        raise UserError(f"mutual_learning_conf: {name} {value!r}: expected {what}")
