"""Options of the method, checked before anything is computed: of the targets, of stage 1 and of stage 2."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from espnet_ext.data.embedding_codecs import codebooks_of
from espnet_ext.distillation.frames import REDUCTIONS
from espnet_ext.distillation.teachers import layer_choice
from espnet_ext.errors import UserError

#: How several teachers become one loss.
RULES = ("sum_heads", "random", "average", "concat")


@dataclass(frozen=True)
class TeacherConf:
    """What is wanted of a teacher; the YAML comments on each."""

    layer: str = "last"
    reduce: str = "mean"
    long: str = "window"
    storage: str = "fp16"

    def __post_init__(self):
        layer_choice(self.layer)
        codebooks_of(self.storage)
        for name, value, known in (
            ("reduce", self.reduce, REDUCTIONS),
            ("long", self.long, ("window", "refuse")),
        ):
            if value not in known:
                raise UserError(f"{name} {value}: expected {' or '.join(known)}")


@dataclass(frozen=True)
class TargetConf:
    """How targets are made."""

    storage: str = "fp16"
    batch_seconds: float = 60.0
    shard_seconds: float = 1800.0
    teachers: Mapping[str, Mapping] = field(default_factory=dict)

    def of(self, name: str) -> TeacherConf:
        """Settings of a teacher."""
        own = {"storage": self.storage, **(self.teachers.get(name) or {})}
        return TeacherConf(**{key: str(value) for key, value in own.items()})


def target_conf(conf: Mapping, where: str | Path | None = None) -> TargetConf:
    """Check the YAML of stage 7.

    Raises:
        UserError: naming the option that is unknown or out of range.
    """
    _known(conf, TargetConf, str(where))
    found = TargetConf(**conf)
    for name in ("batch_seconds", "shard_seconds"):
        if not _number(getattr(found, name)) or getattr(found, name) <= 0:
            raise UserError(f"{where}: {name} {getattr(found, name)}: expected a number above 0")
    try:
        codebooks_of(str(found.storage))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(found.teachers, Mapping):  # in YAML, an empty block is null
        raise UserError(
            f"{where}: teachers: expected options of each, as `hubert: {{layer: 9}}`, found "
            f"{found.teachers!r}; leave the line out if there are none"
        )
    for name, own in found.teachers.items():
        _known(own or {}, TeacherConf, f"{where}: teachers: {name}")
        try:
            found.of(name)
        except UserError as error:
            raise UserError(f"{where}: teachers: {name}: {error}") from None
    return found


def parse_places(words: Sequence[str]) -> dict[str, str]:
    """`NAME=PLACE` each, NAME becoming part of a path.

    Raises:
        UserError: another form, or a name twice.
    """
    places: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or not place or not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"--teacher {word}: expected NAME=PLACE, the name of letters, digits, _ and -; for a place "
                "with white space in its name make a link to it"
            )
        if name in places:
            raise UserError(f"--teacher {word}: {name} occurs twice")
        places[name] = place
    return places


def parse_weights(words: Sequence[str], teachers: Sequence[str]) -> dict[str, float]:
    """`NAME=WEIGHT` each, as the recipe's `--teacher_weights` has them.

    Args:
        words: see there; none: all teachers alike.
        teachers: names that there are.

    Raises:
        UserError: another form, a teacher that is not there, a name twice, or no weight above 0.
    """
    weights: dict[str, float] = {}
    for word in words:
        name, _, weight = word.partition("=")
        if name not in teachers:
            raise UserError(
                f"--teacher_weights {word}: expected NAME=WEIGHT of one of the teachers, "
                f"{', '.join(teachers)}"
            )
        if name in weights:
            raise UserError(f"--teacher_weights {word}: {name} occurs twice")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = math.nan
        if not 0 <= weights[name] < math.inf:
            raise UserError(f"--teacher_weights {word}: expected a weight of 0 or more, as {name}=0.5")
    if weights and not any(weights.values()):
        raise UserError("--teacher_weights: none is above 0, so that there is no target")
    return weights or dict.fromkeys(teachers, 1.0)


@dataclass(frozen=True)
class EncoderOptions:
    """`distillation_conf` of stage 1 after its checks; the YAML comments on each."""

    teachers: Mapping[str, float] = field(default_factory=dict)  # name: weight
    rule: str = "sum_heads"
    loss: str = "l1"
    cosine: float = 0.0
    size: int = 0
    standardise: bool = True
    tolerance: int = 3
    unlabelled_weight: float = 1.0
    variance_steps: int = 100
    least_variance: float = 0.1
    statistics_utterances: int = 200

    @property
    def weights(self) -> dict[str, float]:
        """Weights that add up to one, of the teachers that have any."""
        used = {name: float(weight) for name, weight in self.teachers.items() if weight > 0}
        total = sum(used.values())
        return {name: weight / total for name, weight in used.items()}


def encoder_options(conf: Mapping) -> EncoderOptions:
    """Check `distillation_conf` of stage 1.

    Raises:
        UserError: naming the option that is unknown, of another type or out of range.
    """
    options = _typed(conf, EncoderOptions, "distillation_conf")
    if not isinstance(options.teachers, Mapping) or not all(
        _number(weight) and weight >= 0 for weight in options.teachers.values()
    ):
        raise UserError("distillation_conf: teachers: expected NAME: WEIGHT each, weights of 0 or more")
    if not options.weights:
        raise UserError("distillation_conf: teachers: none has a weight above 0, so that there is no target")
    for name, good, wanted in (
        ("rule", options.rule in RULES, f"one of {', '.join(RULES)}"),
        ("loss", options.loss in ("l1", "codes"), "l1 or codes"),
        ("cosine", 0 <= options.cosine < math.inf, "0 or more"),
        ("size", options.size >= 0, "0 (the smallest teacher's) or more"),
        ("tolerance", options.tolerance >= 0, "0 or more frames"),
        ("unlabelled_weight", 0 <= options.unlabelled_weight < math.inf, "0 or more"),
        ("variance_steps", options.variance_steps >= 1, "at least 1"),
        ("least_variance", 0 <= options.least_variance < 1, "from 0 to below 1"),
        ("statistics_utterances", options.statistics_utterances >= 1, "at least 1"),
    ):
        if not good:
            raise UserError(f"distillation_conf: {name} {getattr(options, name)}: expected {wanted}")
    if options.loss == "codes" and (options.rule != "sum_heads" or options.cosine):
        raise UserError(
            "distillation_conf: loss: codes is a cross-entropy a teacher: it needs rule: sum_heads, cosine: 0"
        )
    if options.rule == "concat" and len(set(options.weights.values())) > 1:
        raise UserError("distillation_conf: rule: concat counts every number alike: give equal weights")
    return options


@dataclass(frozen=True)
class StudentOptions:
    """`distillation_conf` of stage 2 after its checks; the YAML comments on each."""

    freeze_updates: int = 0
    path_weight: float = 0.0
    temperature: float = 1.0
    path: str = "greedy"
    path_norm: str = "utterance"
    shift: int = 0
    tolerance: int = 3


def student_options(conf: Mapping) -> StudentOptions:
    """Check `distillation_conf` of stage 2.

    Raises:
        UserError: naming the option that is unknown, of another type or out of range.
    """
    options = _typed(conf, StudentOptions, "distillation_conf")
    for name, good, wanted in (
        ("freeze_updates", options.freeze_updates >= 0, "0 or more"),
        ("path_weight", 0 <= options.path_weight < math.inf, "0 or more"),
        ("temperature", 0 < options.temperature < math.inf, "above 0"),
        ("path", options.path in ("greedy", "best"), "greedy or best"),
        ("path_norm", options.path_norm in ("utterance", "node"), "utterance or node"),
        ("shift", options.shift >= 0, "0 or more frames"),
        ("tolerance", options.tolerance >= 0, "0 or more frames"),
    ):
        if not good:
            raise UserError(f"distillation_conf: {name} {getattr(options, name)}: expected {wanted}")
    return options


def _number(value) -> bool:
    """Whether YAML has given a finite number; a bool is an int in Python."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _known(conf: Mapping, kind: type, where: str) -> None:
    if not isinstance(conf, Mapping):
        raise UserError(f"{where}: expected options, found {type(conf).__name__}")
    known = [each.name for each in fields(kind)]
    unknown = sorted(set(conf) - set(known))
    if unknown:
        raise UserError(f"{where}: unknown {', '.join(map(str, unknown))}; there are {', '.join(known)}")


def _typed(conf: Mapping, kind: type, where: str):
    """Build the options, each of its default's type: YAML reads `1e-3` as a string, and a bool is an int."""
    _known(conf, kind, where)
    defaults = kind()
    for name, value in conf.items():
        default = getattr(defaults, name)
        if isinstance(default, Mapping):
            continue
        wanted = (int, float) if type(default) is float else type(default)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            what = {
                bool: "true or false",
                int: "a whole number",
                float: "a number, as 0.001",
                str: "a word",
            }
            raise UserError(f"{where}: {name} {value!r}: expected {what[type(default)]}")
    return kind(**conf)
