"""Run a command, or an array of jobs, on this machine: ``[options] [JOB=1:N] LOG COMMAND ARGUMENT...``."""

import os
import sys

from espnet_ext.errors import main_guard
from espnet_ext.launch.local import LocalRun
from espnet_ext.launch.request import USAGE, parse_request
from espnet_ext.processes import die_with_parent


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Parse, run, return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(program="run_local"), end="")
        return 0 if arguments else 1
    die_with_parent(os.getppid())
    return LocalRun(parse_request(arguments)).run()


if __name__ == "__main__":
    sys.exit(main())
