"""Stage 12: experiments side by side, with intervals, verdicts and a page to read them on.

What is given may be experiment folders, of this project or of any ESPnet recipe, folders that hold such, and
pairs of files with references and hypotheses (`report ref.txt hyp.txt`, lines with or without ids, or trn).
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from espnet_ext.errors import main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.provenance import provenance
from espnet_ext.recipe.systems import load_systems
from espnet_ext.report import csv_rows, markdown, page
from espnet_ext.report.build import build
from espnet_ext.report.collect import Collection, collect
from espnet_ext.report.curves import plot_curves
from espnet_ext.report.foreign import Scoring, collect_all
from espnet_ext.report.statistics import Wanted
from espnet_ext.score.normalise import DEFAULT, NORMALISATIONS
from espnet_ext.score.sets import UNITS


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="*", metavar="EXP | REF HYP", help="what to report on")
    parser.add_argument("--expdir", type=Path, help="a recipe's folder of all experiments, with its records")
    parser.add_argument(
        "--out_dir", type=Path, help="where the report goes (default: EXPDIR/report, ./report)"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("SYSTEM", "CONTROL"),
        help="one more pair to compare (names without seeds); those of controls.yaml are compared anyway",
    )
    parser.add_argument(
        "--decoding",
        help="way of decoding to compare by (default: one that all have that are compared, joint first)",
    )
    parser.add_argument(
        "--dev_sets",
        nargs="*",
        help="sets that something was chosen on, no verdict on them (default: dev*, ...)",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        nargs="*",
        default=[],
        help="folders of sets, for references that lie elsewhere",
    )
    parser.add_argument(
        "--normalisation", default=DEFAULT, help=f"of what is scored here: {', '.join(NORMALISATIONS)}"
    )
    parser.add_argument(
        "--unit", choices=UNITS, default="auto", help="of what is scored here: words, characters"
    )
    parser.add_argument(
        "--embed_mb",
        type=float,
        default=3.0,
        help="audio that the page holds itself, at most (default: 3 MB)",
    )
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    if not args.paths and args.expdir is None:
        get_parser().error("expected experiment folders, REF HYP files, or --expdir")
    out_dir = args.out_dir or (args.expdir / "report" if args.expdir else Path("report"))
    found = Collection()
    if args.expdir is not None:
        found.add(collect(args.expdir))
    scoring = Scoring(args.normalisation, args.unit, args.data_dir)
    found.add(collect_all(args.paths, scoring, strict=args.expdir is None))
    made_by = {"command": shlex.join(["python", "-m", "espnet_ext.bin.report", *given]), **provenance()}
    known = load_systems()
    about = {name: system.what for name, system in known.table.items()}
    wanted = _wanted(known, found, args)
    results, drawn = build(found, wanted, made_by, about, args.decoding, args.dev_sets)
    picture = out_dir / "learning_curves.png"
    drawn_curves = plot_curves(found.experiments, picture)
    text = markdown.render(results, picture.name if drawn_curves else None)
    atomic_write_text(out_dir / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(out_dir / "results.csv", csv_rows.render(results))
    atomic_write_text(out_dir / "RESULTS.md", text)
    atomic_write_text(
        out_dir / "index.html", page.render(results, found, drawn, out_dir, int(args.embed_mb * 2**20))
    )
    for problem in found.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(text.split("\n## ", 1)[0])  # the table of error rates
    print(
        f"{out_dir / 'index.html'}: {len(found.results)} results of {len(found.experiments)} experiments, "
        f"{len(results['comparisons'])} comparisons"
    )
    here = {each.system for each in found.experiments}
    for pair in results["not_compared"]:
        if pair["control"] in here:  # of controls that were never run the page says so
            print(f"not compared: {pair['system']} with {pair['control']} ({pair['reason']})")


def _wanted(known, found: Collection, args: argparse.Namespace) -> list[Wanted]:
    """Pairs of controls.yaml, then those asked for; of other people's systems each with the first."""
    pairs = [
        Wanted(pair.system, pair.control, pair.matched, known.table[pair.control].decoding)
        for pair in known.pairs
    ]
    systems = list(dict.fromkeys(each.system for each in found.experiments))
    here = set(systems)
    for system, control in args.compare:
        for name in (system, control):
            if name not in here:
                found.problems.append(
                    f"--compare {system} {control}: there is no {name}; there are: {', '.join(systems)}"
                )
        if not any((pair.system, pair.control) == (system, control) for pair in pairs):
            pairs.append(Wanted(system, control))
    if args.paths and not args.compare and not any({p.system, p.control} <= here for p in pairs):
        pairs += [Wanted(system, systems[0]) for system in systems[1:]]
    return pairs


if __name__ == "__main__":
    sys.exit(main())
