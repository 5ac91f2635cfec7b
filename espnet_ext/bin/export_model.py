"""Average the best epochs of a training and write a plain ESPnet model."""

import argparse
import os
import sys
from pathlib import Path

from espnet_ext.errors import main_guard


@main_guard
def main(cmd: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", required=True, help="a finished training")
    parser.add_argument("--out_dir", required=True, help="folder to write")
    parser.add_argument("--nbest", type=int, default=5, help="number of best epochs to average")
    parser.add_argument("--criterion", help="by which figure, as valid_acc; default: the training's first")
    args = parser.parse_args(cmd)
    about = Path(args.out_dir, "export.json")
    if os.environ.get("finetuned_only") == "true" and _newer(about, Path(args.exp_dir, "train_summary.json")):
        # Systems share the starting model: replacing its export would take it from those that read it.
        print(f"{args.out_dir}: is there")
        return 0
    from espnet_ext.train.export import export

    epochs = export(args.exp_dir, args.out_dir, args.nbest, args.criterion)
    print(f"{args.out_dir}: average of epochs {', '.join(map(str, sorted(epochs)))}")
    return 0


def _newer(file: Path, other: Path) -> bool:
    return file.exists() and other.exists() and file.stat().st_mtime > other.stat().st_mtime


if __name__ == "__main__":
    sys.exit(main())
