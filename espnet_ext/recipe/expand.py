"""``${name}`` in paths: the few rules of the shell that stage headers and derived options need."""

import itertools
import re
from collections.abc import Mapping

from espnet_ext.errors import UserError

#: ${name}, ${name:+text if set}, ${name:-text if not set}
_REFERENCE = re.compile(r"\$\{(\w+)(?::([+-])([^{}]*))?\}")


def names_in(template: str) -> list[str]:
    """Names a template refers to."""
    return [match[1] for match in _REFERENCE.finditer(template)]


def expand(template: str, values: Mapping[str, str]) -> str:
    """Replace every reference by its value.

    >>> expand("${set}${speeds:+_sp}", {"set": "train", "speeds": "0.9 1.1"})
    'train_sp'

    Raises:
        UserError: a name that no option and no derived value has.
    """

    def value(match: re.Match) -> str:
        name, sign, other = match.groups()
        if name not in values:
            raise UserError(
                f"{template!r} refers to {name!r}, which is neither an option nor a derived value"
            )
        if sign == "+":
            return other if values[name] else ""
        return values[name] or (other if sign == "-" else "")

    return _REFERENCE.sub(value, template)


def expand_each(template: str, values: Mapping[str, str], lists: set[str]) -> list[str]:
    """Expand a template once for every combination of the items of the lists it refers to.

    A template that refers plainly to something empty (a list without items, a set that this corpus lacks)
    gives nothing: there is no such path.

    >>> expand_each("data/${sets}/text", {"sets": "dev test"}, {"sets"})
    ['data/dev/text', 'data/test/text']
    """
    plain = {match[1] for match in _REFERENCE.finditer(template) if not match[2]}
    if any(not values.get(name, "x").strip() for name in plain):
        return []
    several = sorted(plain & lists)
    items = [values[name].split() for name in several]
    return [
        expand(template, {**values, **dict(zip(several, choice, strict=True))})
        for choice in itertools.product(*items)
    ]
