"""Stage 12: all experiments side by side."""

import argparse
import sys
from pathlib import Path

from espnet_ext.bin.arguments import add_out_dir
from espnet_ext.errors import main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.provenance import provenance
from espnet_ext.report.collect import collect
from espnet_ext.report.curves import plot_curves
from espnet_ext.report.markdown import render


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    parser.add_argument("--expdir", type=Path, required=True, help="folder of all experiments")
    add_out_dir(parser, "where RESULTS.md and its picture go")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    found = collect(args.expdir)
    picture = args.out_dir / "learning_curves.png"
    drawn = plot_curves(found.experiments, picture)
    text = render(found, provenance(), picture.name if drawn else None)
    atomic_write_text(args.out_dir / "RESULTS.md", text)
    print(text.split("\n## ", 1)[0])  # the table of word error rates
    for problem in found.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(
        f"{args.out_dir / 'RESULTS.md'}: {len(found.results)} results of {len(found.experiments)} experiments"
    )


if __name__ == "__main__":
    sys.exit(main())
