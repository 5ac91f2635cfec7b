"""Values out of YAML that must be numbers: refused with the reason, not with a traceback of a comparison."""

from collections.abc import Iterable

from espnet_ext.errors import UserError

#: What is expected where the default is of a type.
_WORDS = {bool: "true or false", str: "a word", int: "a whole number"}


def check_mapping(where: str, values: object, known: Iterable[str]) -> None:
    """A YAML file's block of options is one: with nothing in it, it is null.

    Args:
        where: the option that holds them, for the message.
        values: what YAML read.
        known: names of options, the first of which is shown as an example.

    Raises:
        UserError: it is none.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected options as `{next(iter(known))}: ...`, got {values!r}")


def check_types(where: str, values: dict, defaults: dict) -> None:
    """Each value is of its default's kind: a number, a whole number, a truth value or a word.

    Args:
        where: the option that holds them, for the message.
        values: by name, as YAML read them.
        defaults: by name; where one is None, null or a number is expected.

    Raises:
        UserError: naming the first value of another kind.
    """
    for name, value in values.items():
        default = defaults[name]
        exact = type(default)
        if exact in _WORDS:
            if type(value) is not exact:
                raise UserError(f"{where} {name}: {value!r}: expected {_WORDS[exact]}")
        elif type(value) not in (int, float) and (value is not None or default is not None):
            hint = " (YAML reads 1e-3 as a word: write 1.0e-3)" if isinstance(value, str) else ""
            raise UserError(f"{where} {name}: {value!r}: expected a number{hint}")
