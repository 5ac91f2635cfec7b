"""Read a training's options as it will read them, before the stages before it have run.

`check_training --task NAME --seed N [--ngpu N] CONFIG... -- OPTION...` ends with a message where the
training would.
Files are looked for with `--start` only: it names the starting model, which may still have to be trained.
`check_training --several JSON` reads a mapping from the name of a stage to such words: one process for
all, since what takes seconds is to begin.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from espnet_ext.bin.asr_train import task_of
from espnet_ext.errors import UserError, main_guard
from espnet_ext.recipe.merge import dump, merge
from espnet_ext.registry import load_task

#: What the recipe names to every training, and what may not be there yet.
LATER = ["output_dir", "token_list"]
LATER += [f"{which}_{what}_dir" for which in ("train", "valid") for what in ("data", "stats")]


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    own = sys.argv[1:] if arguments is None else arguments
    if own[:1] != ["--several"]:
        _check(own)
        return 0
    for stage, words in json.loads(own[1]).items():
        try:
            _check(words)
        except UserError as error:
            raise UserError(f"{stage} would refuse its options: {error}") from None
    return 0


def _check(own: list[str]) -> None:
    """Try the options of one training."""
    parser = argparse.ArgumentParser(prog="check_training", description=__doc__)
    parser.add_argument("--task", required=True, help="as asr_train's")
    parser.add_argument("--seed", required=True, help="of the training")
    parser.add_argument("--ngpu", default="0", help="of the training")
    parser.add_argument("--start", type=Path, help="experiment that the training starts from")
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="YAML files, later ones win")
    at = own.index("--") if "--" in own else len(own)
    args = parser.parse_args(own[:at])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "train.yaml"
        config.write_text(dump(merge(*args.configs), []), encoding="utf-8")
        start = args.start / "export/model.pth" if args.start else "-"  # stage 9's name of it
        words = [
            "--config",
            str(config),
            "--seed",
            args.seed,
            "--ngpu",
            args.ngpu,
            "--init_param",
            str(start),
        ]
        words += [word for name in LATER for word in (f"--{name}", "-")] + own[at + 1 :]
        try:
            load_task(task_of(args.task, words)).check_early(words, args.start is not None)
        except UserError as error:  # nobody knows the merged file, and it vanishes
            raise UserError(str(error).replace(str(config), ", ".join(map(str, args.configs)))) from None


if __name__ == "__main__":
    sys.exit(main())
