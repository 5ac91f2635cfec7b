"""A training's command line: ESPnet's parser, which complains in one line instead of listing all options."""

import argparse
import contextlib
import difflib
import re
import traceback
from collections.abc import Iterator
from typing import NoReturn

import yaml

from espnet_ext.errors import UserError


def parse_command(parser: argparse.ArgumentParser, cmd: list[str] | None) -> argparse.Namespace:
    """Parse the command line and the YAML that ``--config`` names.

    Raises:
        UserError: an option with a wrong value, or one that does not exist (one that is alike is named);
            a YAML that is none, or has a key twice.
    """

    be_strict(parser)
    path = config_of(cmd)
    if path is not None:
        from espnet_ext.asr.load import read_config  # with ESPnet's tasks, which not every training needs

        read_config(path)  # ESPnet's parser reads it again, and would not say what is wrong with it
    try:
        return parser.parse_args(cmd)
    except yaml.YAMLError as error:  # of an option with options of its own
        value = error.problem_mark.buffer.rstrip("\0") if getattr(error, "problem_mark", None) else "a value"
        raise UserError(f"{value} is not YAML: {getattr(error, 'problem', error)}") from None


def be_strict(parser: argparse.ArgumentParser) -> None:
    """Have a parser raise a UserError where it would print all options and exit, and know no abbreviations.

    A beginning of an option's name is more often a slip of the pen than meant, and which option it is may
    change with the next one that is added.
    """

    def refuse(message: str) -> NoReturn:
        if "must be interpreted as dict" in message:  # ESPnet lists everything that it would take
            message = f"{message.splitlines()[0]}; expected name=value, for instance lr=0.001"
        raise UserError(f"{message}{_alike(message, parser)}")

    parser.error, parser.allow_abbrev = refuse, False


def config_of(cmd: list[str] | None) -> str | None:
    """The YAML that a command line names with `--config`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    be_strict(parser)
    return parser.parse_known_args(cmd)[0].config


def _alike(message: str, parser: argparse.ArgumentParser) -> str:
    """A hint for the first option that is not known: argparse names it and what follows it."""
    unknown = re.match(r"unrecognized arguments: (--)?([^\s=]+)", message)
    if not unknown:
        return ""
    known = [action.dest for action in parser._actions]
    close = [name for name in known if name.startswith(unknown[2])]
    close = close or difflib.get_close_matches(unknown[2], known, 1)
    return f"; did you mean {unknown[1] or ''}{close[0]}?" if close else ""


class RefusedValues(UserError):
    """A module of a model says no to the values of its options."""


@contextlib.contextmanager
def options_of_modules(args: argparse.Namespace) -> Iterator[None]:
    """While ESPnet builds a model: an option or a class that does not exist is the configuration's fault.

    So is a value that one of its modules refuses, mostly by an assertion.

    Raises:
        UserError: names the option, and the mapping of the configuration that holds it.
        RefusedValues: names the module, and the line of it that refuses.
    """
    try:
        yield
    except TypeError as error:
        found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if not found:
            raise _refused(error, args) from None
        name, option = found.groups()
        holding = [
            key for key, value in vars(args).items() if key.endswith("_conf") and option in (value or {})
        ]
        raise UserError(
            f"{' or '.join(holding) or name}: {name} has no option {option!r}; leave it out, or correct it"
        ) from None
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        if not re.match(r"--\w+ must be one of", str(error)):
            raise _refused(error, args) from None
        raise UserError(str(error)) from None


def _refused(error: Exception, args: argparse.Namespace) -> Exception:
    """What a person reads instead of a traceback; the error itself where no module was being made."""
    makers = [
        type(frame.f_locals["self"]).__name__
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "__init__" and "self" in frame.f_locals
    ]
    if not makers:
        return error
    parts = ("frontend", "preencoder", "postencoder", "encoder", "decoder", "ctc", "model")
    part = next((p for p in parts if p in makers[0].lower() and hasattr(args, f"{p}_conf")), None)
    line = traceback.extract_tb(error.__traceback__)[-1].line
    text = f": {str(error).splitlines()[0]}" if str(error) else ""
    return RefusedValues(
        f"{f'{part}_conf: ' if part else ''}{makers[0]} refuses a value of its options: "
        f"{type(error).__name__}{text} (in `{line}`); correct it in the configuration"
    )
