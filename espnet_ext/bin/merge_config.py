"""Merge training configurations into one: `merge_config --out FILE CONFIG CONFIG...`, later ones win."""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.merge import dump, merge


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Write the merged file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="merge_config", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="YAML files, later ones win")
    args = parser.parse_args(arguments)
    atomic_write_text(args.out, dump(merge(*args.configs), [str(path) for path in args.configs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
