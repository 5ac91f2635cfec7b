"""An optimiser or a schedule from the name and the options of a configuration, or what is wrong with them."""

import difflib
import inspect
import math
from collections.abc import Mapping

from espnet_ext.errors import UserError


def construct(classes: Mapping[str, type], option: str, name, conf: Mapping, first):
    """Make an optimiser over parameters, or a schedule of an optimiser.

    Args:
        classes: what there is, by name.
        option: that names it, as `optim` or `scheduler2`; its options are those of `<option>_conf`.
        name: the choice.
        conf: its options.
        first: what comes before them: the parameters, or the optimiser.

    Raises:
        UserError: no such one, an option that it does not have, a value that it refuses, or one that the loop
            cannot use.
    """
    if not isinstance(name, str) or name not in classes:  # a YAML's values are not checked
        raise UserError(f"--{option}: {name}: expected one of {', '.join(classes)}")
    where = f"--{option}_conf: {name}"
    known = dict(list(inspect.signature(classes[name]).parameters.items())[1:])
    takes = f"{name} takes {', '.join(known)}"
    anything = any(each.kind is each.VAR_KEYWORD for each in known.values())  # a plug-in's, for instance
    for key, value in conf.items():
        if key not in known:
            if anything:
                continue
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f", did you mean {close[0]}?" if close else ";"
            raise UserError(f"{where}: has no option {key}{hint} {takes}")
        if expected := _expected(value, known[key].default):
            raise UserError(f"{where}: {key} {value!r}: expected {expected}{_as_text(key, value)}")
    try:
        made = classes[name](first, **conf)
    except Exception as error:  # anything from an assertion to torch's own
        raise UserError(f"{where}: {error or type(error).__name__}; {takes}") from None
    for each in list(inspect.signature(type(made).step).parameters.values())[1:]:
        needed = each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        if needed or each.name == "metrics":  # without it ESPnet's own plateau schedule never lowers a rate
            raise UserError(
                f"--{option}: {name}: needs `{each.name}` at every step, which this training does not have; "
                "choose another"
            )
    return made


def _expected(value, default) -> str | None:
    """What a value should have been, as its default shows; None where it may be right."""
    if isinstance(default, bool):
        return None if isinstance(value, (bool, int)) else "true or false"
    if isinstance(default, (int, float)):  # some take a list with a number for each group of parameters
        if isinstance(value, (bool, str, dict)) or value is None:
            return "a number"
        return None if not isinstance(value, float) or math.isfinite(value) else "a finite number"
    if isinstance(default, tuple):
        numbers = isinstance(value, (list, tuple)) and not any(isinstance(each, str) for each in value)
        if not numbers or len(value) != len(default):
            return f"a list of {len(default)} numbers, as {list(default)}"
    return None


def _as_text(key: str, value) -> str:
    """A hint for a number that YAML takes for a text."""
    texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
    if not any(each[:1].isdigit() for each in texts):
        return ""
    return f"; YAML takes {key} {', '.join(map(repr, texts))} for a text: write 1.0e-4, not 1e-4"
