"""Stage 2: copies of a data directory at other speeds (sox), combined into one directory."""

import argparse
import sys

from espnet_ext.bin.arguments import add_in_dir, add_nj, add_out_dir
from espnet_ext.data.speed import perturb
from espnet_ext.errors import main_guard


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="perturb_data", description=__doc__)
    add_in_dir(parser)
    add_out_dir(parser)
    parser.add_argument(
        "--speeds",
        type=float,
        nargs="+",
        default=[0.9, 1.0, 1.1],
        help="factors; 1.0 is a reference (default: %(default)s)",
    )
    add_nj(parser)
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = get_parser().parse_args(argv)
    print(perturb(arguments.in_dir, arguments.out_dir, arguments.speeds, arguments.nj))


if __name__ == "__main__":
    sys.exit(main())
