"""The recipe driver: runs the stages of a recipe in the working directory. Started by ``asr.sh``."""

import sys
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.recipe.driver import Driver


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Run ``--template FOLDER OPTION...`` and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) < 2 or arguments[0] != "--template":
        raise UserError("expected --template FOLDER OPTION...; start a recipe with its run.sh or asr.sh")
    template = Path(arguments[1]).resolve()
    return Driver(template, arguments[2:], lambda: _submitter(template)).run()


def _submitter(template: Path):
    # Most calls submit nothing.
    from espnet_ext.launch.submitter import Submitter

    return Submitter(template)


if __name__ == "__main__":
    sys.exit(main())
