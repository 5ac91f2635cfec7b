"""Options of a recipe: defined once in ``conf/options.yaml``, read from the command line, handed to stages.

A definition is ``name: {type, default, help, choices, minimum, ...}`` inside a titled group. A corpus adds
its own in its ``conf/options.yaml``. Stage scripts find every option as an environment variable.
"""

import difflib
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from espnet_ext.data.lengths import sample_rate
from espnet_ext.errors import UserError
from espnet_ext.processes import cores
from espnet_ext.recipe.expand import expand
from espnet_ext.yamls import parse_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_TRUTH = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
#: Types with the words `--help` shows for their values.
_TYPES = {
    "str": "TEXT",
    "int": "N",
    "float": "X",
    "floats": "X ...",
    "rate": "HZ",  # of audio, 16000 or 16k
    "bool": "true|false",
    "name": "NAME",  # letters, digits and ._+-: safe as part of a path
    "names": "NAME ...",
    "path": "PATH",
    "config": "FILE",  # its content counts for the stages that use it
    "configs": "NAME ...",  # names of files that fit `file`
    "words": "ARGUMENTS",  # split as a shell would, but nothing is executed
    "stage": "STAGE",
    "stages": "STAGE ...",
}


@dataclass(frozen=True)
class Option:
    """One option as its definition says it."""

    name: str
    group: str
    help: str
    type: str = "str"
    default: str = ""
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    unique: bool = False  # of `floats`: no number twice
    required: bool = False  # may not be empty
    file: str = ""  # of `configs`: file of a name, as conf/decode_{}.yaml
    plugins: str = ""  # entry-point group in which choices other than the default must be found
    stages: tuple[str, ...] = ()  # stages that use an option of the corpus's own
    default_by: Mapping[str, str] | None = None  # {by: an option, its value: default with that value, ...}

    def check(self, value: str) -> str:
        """Return the value in its canonical spelling.

        Raises:
            UserError: it is not of the option's type, range or choices.
        """
        try:
            value = self._checked(value)
        except ValueError as error:
            raise UserError(f"--{self.name} {shlex.quote(value)}: expected {error}") from None
        if self.required and not value:
            raise UserError(f"--{self.name} may not be empty: {self.help}")
        return value

    def _checked(self, value: str) -> str:
        if "\0" in value:
            raise ValueError("no NUL character")
        if self.type in ("int", "float"):
            return self._number(value) if value or self.required else value
        if self.type == "bool":
            if value.lower() not in _TRUTH:
                raise ValueError("true or false")
            return _TRUTH[value.lower()]
        if self.type == "floats":
            words = [self._number(word) for word in value.split()]
            if self.unique and len(set(map(float, words))) < len(words):
                raise ValueError("every number once")
            return " ".join(words)
        if self.type == "rate":
            self._check_rate(value)
        if self.type in ("name", "names", "configs"):
            words = [value] if self.type == "name" and value else value.split()
            for word in words:
                if not _NAME.match(word):
                    raise ValueError("names of letters, digits and ._+- (they become parts of paths)")
            value = " ".join(words)
        if self.type == "words":
            shlex.split(value)
        if self.type in ("path", "config") and value.startswith("-"):
            value = f"./{value}"  # no command takes it for an option
        if self.choices and value not in self.choices:
            hint = did_you_mean(value, self.choices, "; ")
            raise ValueError(f"one of {', '.join(self.choices)}{hint}")
        return value

    def _number(self, value: str) -> str:
        try:
            number = int(value) if self.type == "int" else float(value)
        except ValueError:
            raise ValueError("a whole number" if self.type == "int" else "a number") from None
        if not math.isfinite(number) or not self.minimum <= number <= self.maximum:
            if self.maximum == math.inf:
                raise ValueError(f"a number of at least {self.minimum:g}")
            raise ValueError(f"a number from {self.minimum:g} to {self.maximum:g}")
        if self.type == "floats":  # parts of names, as of sp0.9-utterances
            return value
        # One spelling: bash takes 08 for a wrong octal number, and 0.0 is the 0 that a definition asks for.
        return repr(number + 0).removesuffix(".0")  # + 0: no negative zero

    @staticmethod
    def _check_rate(value: str) -> None:
        try:
            sample_rate(value)
        except UserError:
            raise ValueError("a sample rate in Hz, as in 16000, or in kHz, as in 16k") from None


@dataclass
class Options:
    """All definitions, and the values once `parse` has run."""

    groups: dict[str, str]  # key of a group: its title
    table: dict[str, Option]
    derived: dict[str, object]
    values: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    @property
    def lists(self) -> set[str]:
        """Names of the options whose value is a list."""
        return {option.name for option in self.table.values() if option.type in ("names", "configs")}

    def parse(self, arguments: list[str]) -> None:
        """Read ``--name value``, ``--name=value`` and ``--flag``; the last one counts.

        Raises:
            UserError: an unknown option (the message names one that looks like it), a value missing or wrong.
        """
        words = list(arguments)
        raw: dict[str, str] = {}
        while words:
            word = words.pop(0)
            name, equals, value = word.removeprefix("--").partition("=")
            option = self.table.get(name.replace("-", "_"))
            if not word.startswith("--") or option is None:
                raise UserError(self._unknown(word))
            if not equals:
                if option.type == "bool":
                    value = words.pop(0) if words and not words[0].startswith("--") else "true"
                elif not words or self._is_option(words[0]):
                    raise UserError(f"--{option.name} needs a value ({_TYPES[option.type]}): {option.help}")
                else:
                    value = words.pop(0)
            raw[option.name] = value
        self.given = set(raw)
        self._parse_values(raw)

    def set_defaults(self, defaults: Mapping[str, str], where: str) -> None:
        """Give options other defaults.

        Raises:
            UserError: one of no option; ``where`` says who wants it.
        """
        for name, default in defaults.items():
            if name not in self.table:
                hint = did_you_mean(name, self.table, "; ")
                raise UserError(f"{where}: default of {name}: no such option{hint}")
            self.table[name] = replace(self.table[name], default=_text(default), default_by=None)

    def _parse_values(self, raw: dict[str, str]) -> None:
        # A default may refer to options before it (${seed} in that of the tag) and to the machine's ${cores}.
        self.values = {name: raw.get(name, option.default) for name, option in self.table.items()}
        for name, option in self.table.items():
            if name not in raw:
                default = option.default
                if option.default_by:
                    default = option.default_by.get(self.values[option.default_by["by"]], default)
                self.values[name] = expand(default, {"cores": str(cores()), **self.values})
            self.values[name] = option.check(self.values[name])
        for name, template in self.derived.items():
            if isinstance(template, dict):
                template = template.get(self.values[template["by"]], template["default"])
            self.values[name] = expand(template, self.values)

    def _is_option(self, word: str) -> bool:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        return word.startswith("--") and name in self.table

    def _unknown(self, word: str) -> str:
        if not word.startswith("--"):
            return f"{word!r} is no option: options start with --, and a value with spaces needs quotes"
        name = word.removeprefix("--").partition("=")[0]
        hint = did_you_mean(name, self.table, dashes="--")
        return f"unknown option --{name}{hint} (--help lists all options)"

    def help(self, program: str) -> str:
        """The text of ``--help``."""
        lines = [f"usage: {program} [--option value | --option=value | --flag] ...", ""]
        for group, title in self.groups.items():
            lines += [title + ":"]
            for option in self.table.values():
                if option.group != group:
                    continue
                values = "|".join(option.choices) or _TYPES[option.type]
                default = f" (default: {option.default})" if option.default else ""
                lines += [f"  --{option.name} {values}{default}"]
                lines += [f"      {line}" for line in option.help.splitlines()]
            lines += [""]
        return "\n".join(lines)


def did_you_mean(word: str, known: Iterable[str], mark: str = ": ", dashes: str = "") -> str:
    """A question after the known word that looks like the given one, for the end of a message.

    Empty where none looks like it: no guess is better than a wild one.
    """
    close = difflib.get_close_matches(word.replace("-", "_"), list(known), 1)
    return f"{mark}did you mean {dashes}{close[0]}?" if close else ""


def load_options(*files: Path) -> Options:
    """Read definitions: the template's, then those a corpus adds; ``defaults`` gives options other defaults.

    Raises:
        UserError: not YAML, a field that does not exist, an option defined twice, a default of no option.
    """
    options = Options({}, {}, {})
    for file in files:
        content = read_yaml(file)
        options.derived.update(content.pop("derived", {}))
        defaults = content.pop("defaults", {})
        for group, body in content.items():
            options.groups.setdefault(group, body["title"])
            for name, definition in body["options"].items():
                if name in options.table:
                    raise UserError(
                        f"{file}: option {name} is defined already, in group {options.table[name].group}"
                    )
                options.table[name] = _option(name, group, definition, file)
        options.set_defaults(defaults, str(file))
    return options


def read_yaml(file: Path) -> dict:
    """Read a YAML mapping; an empty file is an empty one.

    Raises:
        UserError: unreadable, not YAML or a key twice (with the line), not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    content = parse_yaml(text, file) or {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected `name: value` lines, found {type(content).__name__}")
    return content


def _text(default) -> str:
    """A default as it would stand on the command line."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _option(name: str, group: str, definition: Mapping, file: Path) -> Option:
    definition = dict(definition)
    default = _text(definition.pop("default", ""))
    for key in ("choices", "stages"):
        definition[key] = tuple(str(item) for item in definition.get(key, ()))
    try:
        option = Option(name=name, group=group, default=default, **definition)
    except TypeError as error:
        raise UserError(f"{file}: option {name}: {error}") from None
    if option.type not in _TYPES:
        raise UserError(f"{file}: option {name}: unknown type {option.type!r}; known: {', '.join(_TYPES)}")
    return option
