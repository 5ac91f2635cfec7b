"""Options that several commands share."""

import argparse
from pathlib import Path


def add_in_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--in_dir``."""
    parser.add_argument("--in_dir", type=Path, required=True, help="data directory to read, left untouched")


def add_out_dir(
    parser: argparse.ArgumentParser, what: str = "directory to write, replaced as a whole"
) -> None:
    """Add ``--out_dir``; ``what`` says what it is."""
    parser.add_argument("--out_dir", type=Path, required=True, help=what)


def add_nj(parser: argparse.ArgumentParser) -> None:
    """Add ``--nj`` of the commands that work through `espnet_ext.data.pool`."""
    parser.add_argument(
        "--nj",
        type=int,
        default=1,
        help="number of processes; the result does not depend on it (default: %(default)s)",
    )
