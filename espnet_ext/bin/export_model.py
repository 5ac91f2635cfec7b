"""Average the best epochs of a training and write a plain ESPnet model.

An export that is there, of this very training and these epochs, is left as it is: systems that stand on one
starting model all ask for its export, and some may be reading it.
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import main_guard
from espnet_ext.train.exported import is_current
from espnet_ext.train.options import check_number


@main_guard
def main(cmd: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", required=True, type=Path, help="a finished training")
    parser.add_argument("--out_dir", required=True, type=Path, help="folder to write")
    parser.add_argument("--nbest", type=int, default=5, help="number of best epochs to average")
    parser.add_argument("--criterion", help="by which figure, as valid_acc; default: the training's first")
    parser.add_argument("--force", choices=["true", "false"], default="false", help="write it in any case")
    args = parser.parse_args(cmd)
    check_number("nbest", args.nbest, int, 1)
    if args.force == "false" and is_current(args.exp_dir, args.out_dir, args.nbest, args.criterion):
        print(f"{args.out_dir}: is there, of this training and these epochs")
        return 0
    from espnet_ext.train.export import export

    epochs = export(args.exp_dir, args.out_dir, args.nbest, args.criterion)
    print(f"{args.out_dir}: average of epochs {', '.join(map(str, sorted(epochs)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
