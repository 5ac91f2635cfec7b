"""What a decoding configuration (``conf/decode_*.yaml``) may say, checked before any model is loaded."""

import difflib
import itertools
import math
import os
from dataclasses import asdict, dataclass, fields

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.yamls import parse_yaml

#: Search methods, and the options each of them reads beside ``batch_seconds``.
METHODS = {
    "joint": (
        "beam_size",
        "ctc_weight",
        "lm_weight",
        "penalty",
        "maxlenratio",
        "minlenratio",
        "normalize_length",
        "nbest",
    ),
    "attention_greedy": ("maxlenratio", "minlenratio"),
    "ctc_greedy": (),
    "transducer": ("beam_size", "lm_weight", "maxlenratio", "nbest"),
    "transducer_greedy": ("maxlenratio",),
}
#: Options that a ``tune:`` mapping may list values of.
TUNABLE = ("ctc_weight", "lm_weight", "penalty")


@dataclass(frozen=True)
class DecodeOptions:
    """Options of decoding; names and meanings are ESPnet's where ESPnet has them.

    Attributes:
        method: ``joint`` (beam search with CTC and attention), ``attention_greedy`` or ``ctc_greedy``; of a
            stand-alone transducer ``transducer`` (beam search), ``transducer_greedy`` or ``ctc_greedy`` (its
            auxiliary CTC).
        beam_size: hypotheses kept at every step.
        ctc_weight: share of CTC in the score, 0 (attention only) to 1 (CTC only).
        lm_weight: factor of a language model's log-probability in the score; 0: none is asked.
        penalty: added to the score for every token; positive values favour longer hypotheses.
        maxlenratio: greatest length, as a share of the encoder's frames; negative: in tokens; 0:
            one token a frame, and the beam search ends where it detects that nothing better will come.
        minlenratio: least length, as a share of the encoder's frames; negative: in tokens.
        normalize_length: rank ended hypotheses by score per token.
        nbest: hypotheses to write for each utterance.
        batch_seconds: audio in one batch, padding included. Changes speed and memory, not the result.
    """

    method: str = "joint"
    beam_size: int = 5
    ctc_weight: float = 0.3
    lm_weight: float = 0.0
    penalty: float = 0.0
    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    normalize_length: bool = False
    nbest: int = 1
    batch_seconds: float = 60.0

    def used(self) -> dict:
        """The options that the method reads."""
        names = ("method", *METHODS[self.method], "batch_seconds")
        return {name: value for name, value in asdict(self).items() if name in names}


def read_options(path: str | os.PathLike) -> DecodeOptions:
    """Read and check a decoding configuration.

    Raises:
        UserError: not YAML, an unknown option, a wrong type, a value out of range, an option that the
            method does not read, or values that have to be chosen first.
    """
    given = _read_mapping(path)
    if "tune" in given:
        raise UserError(
            f"{path}: lists values under `tune:`; choose with `python -m espnet_ext.bin.tune_decoding` "
            "(stage 10 does), and decode with the file it writes"
        )
    return check_options(given, str(path))


def read_grid(path: str | os.PathLike) -> tuple[list[str], list[DecodeOptions]]:
    """Read a configuration whose ``tune:`` mapping lists the values to choose from.

    Returns:
        the names of the mapping, and the options of every combination, the last name running fastest.

    Raises:
        UserError: see :func:`read_options`; or a ``tune`` that is no mapping of lists, lists an option
            that has a value as well, or one that cannot be tuned.
    """
    given = _read_mapping(path)
    lists = given.pop("tune", None)
    if not isinstance(lists, dict) or not lists:
        raise UserError(
            f"{path}: tune: expected lists of values, as `ctc_weight: [0.3, 0.5]`, found {lists!r}"
        )
    for name, values in lists.items():
        if name not in TUNABLE:
            raise UserError(f"{path}: tune: {name}: expected one of {', '.join(TUNABLE)}")
        if name in given:
            raise UserError(f"{path}: {name} has a value and a list under `tune:`; remove one of the two")
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: tune: {name}: expected a list of numbers, found {values!r}")
    points = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return list(lists), [check_options({**given, **point}, f"{path}: tune") for point in points]


def _read_mapping(path: str | os.PathLike) -> dict:
    given = parse_yaml("\n".join(line for _, line in read_lines(path)), path)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected `option: value` lines, found {type(given).__name__}")
    return given


def check_options(given: dict, where: str) -> DecodeOptions:
    """Build options from a mapping; see :func:`read_options`."""
    known = {field.name: field.type for field in fields(DecodeOptions)}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{where}: unknown option `{name}`; {hint}")
        kind = known[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if kind is float else type(value) is kind):
            raise UserError(f"{where}: {name}: expected {kind.__name__}, found {value!r}")
        if kind is float and not math.isfinite(value):  # YAML knows .nan and .inf; scores would be neither
            raise UserError(f"{where}: {name}: expected a finite number, found {value!r}")
    options = DecodeOptions(**given)
    if options.method not in METHODS:
        raise UserError(f"{where}: method: {options.method!r} is none of {', '.join(METHODS)}")
    for name in given:
        if name not in options.used():
            raise UserError(f"{where}: method {options.method} does not read `{name}`; remove the line")
    for name, good, what in (
        ("beam_size", options.beam_size >= 1, "at least 1"),
        ("ctc_weight", 0 <= options.ctc_weight <= 1, "from 0 to 1"),
        ("lm_weight", options.lm_weight >= 0, "at least 0"),
        ("nbest", 1 <= options.nbest <= options.beam_size, "from 1 to beam_size"),
        ("batch_seconds", options.batch_seconds > 0, "greater than 0"),
    ):
        if not good:
            raise UserError(f"{where}: {name}: expected {what}, found {getattr(options, name)}")
    if _crossed(options.minlenratio, options.maxlenratio):
        raise UserError(
            f"{where}: minlenratio {options.minlenratio:g} asks for more tokens than maxlenratio "
            f"{options.maxlenratio:g} allows, so that no hypothesis could end; lower one or raise the other"
        )
    return options


def _crossed(least: float, most: float) -> bool:
    """Whether the shortest hypothesis is longer than the longest; tokens and shares are not compared."""
    if least < 0 or most < 0:
        return least < 0 and most < 0 and int(least) < int(most)
    return least > (most or 1.0)  # 0: one token a frame
