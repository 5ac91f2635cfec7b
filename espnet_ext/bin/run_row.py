"""Become the command that a file holds, one job of a list: its words, each ended by a NUL character.

Words NAME=VALUE before the command go to its environment.
"""

import os
import re
import shlex
import sys

from espnet_ext.errors import UserError, main_guard


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Replace this process by the command; returns only with an error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        raise UserError("expected one argument, the file that holds the command")
    with open(arguments[0], "rb") as handle:
        words = handle.read().split(b"\0")[:-1]
    command = [os.fsdecode(word) for word in words]
    while command and re.match(r"[A-Za-z_][A-Za-z0-9_]*=", command[0]):
        name, _, value = command.pop(0).partition("=")
        os.environ[name] = value
    if not command:
        raise UserError(f"{arguments[0]}: holds no command")
    print(f"# {shlex.join(command)}", flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
