#!/usr/bin/env python3
"""Build the synth corpus: sentences of a grammar, spoken by espeak-ng, with simulated rooms and noise."""

import argparse
import os
import sys
from pathlib import Path

# One thread a process: the work is divided among processes already. numpy reads this when it is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import yaml
from synth.corpus import write_corpus
from synth.grammar import Grammar
from synth.lean import only_these_variants
from synth.plan import make_plan
from synth.speak import check_tools

from espnet_ext.errors import UserError, main_guard
from espnet_ext.processes import cores

HERE = Path(__file__).resolve().parent


@main_guard
def main(arguments: list[str] | None = None) -> None:
    """Read the options, plan, write, and say what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out_dir", type=Path, default=Path("data"), help="where the data directories go")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies all sizes: 0.01 for tests, 10 for benchmarks"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    parser.add_argument("--nj", type=int, default=cores(), help="processes; the corpus does not depend on it")
    parser.add_argument(
        "--config", type=Path, default=HERE.parent / "conf" / "corpus.yaml", help="sizes and settings"
    )
    parser.add_argument("--overwrite", action="store_true", help="make it again even if it is there")
    options = parser.parse_args(arguments)
    if not 0 < options.scale < float("inf"):
        raise UserError(f"--scale {options.scale:g}: expected a number above 0")
    config = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    versions = check_tools(config["variants"])
    plan = make_plan(config, Grammar(HERE / "grammar"), options.seed, options.scale)
    with only_these_variants(config["variants"]):
        about = write_corpus(plan, options.out_dir, options.nj, versions, options.overwrite)
    for name, sizes in about["sets"].items():
        print(f"{options.out_dir / name}: " + ", ".join(f"{value:g} {unit}" for unit, value in sizes.items()))


if __name__ == "__main__":
    sys.exit(main())
