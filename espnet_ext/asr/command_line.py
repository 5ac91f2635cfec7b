"""A training's command line: ESPnet's parser, which complains in one line instead of listing all options."""

import argparse
import difflib
import re
from typing import NoReturn

from espnet_ext.errors import UserError


def parse_command(parser: argparse.ArgumentParser, cmd: list[str] | None) -> argparse.Namespace:
    """Parse the command line and the YAML that ``--config`` names.

    Raises:
        UserError: an option with a wrong value, or one that does not exist (one that is alike is named).
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}{_alike(message, parser)}")

    parser.error = refuse
    return parser.parse_args(cmd)


def _alike(message: str, parser: argparse.ArgumentParser) -> str:
    """A hint for the first option that is not known: argparse names it and what follows it."""
    unknown = re.match(r"unrecognized arguments: (--)?([^\s=]+)", message)
    if not unknown:
        return ""
    close = difflib.get_close_matches(unknown[2], [action.dest for action in parser._actions], 1)
    return f"; did you mean {unknown[1] or ''}{close[0]}?" if close else ""
