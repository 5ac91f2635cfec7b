"""Run a command of a matrix's row and note how long it took: ``used EXPDIR ROW GPUS COMMAND ...``."""

import sys
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.processes import run_through
from espnet_ext.recipe.usage import Usage


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Returns the command's status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) < 4:
        raise UserError("expected EXPDIR ROW GPUS COMMAND ...")
    with Usage(Path(arguments[0]), arguments[1], int(arguments[2])):
        return run_through(arguments[3:])


if __name__ == "__main__":
    sys.exit(main())
