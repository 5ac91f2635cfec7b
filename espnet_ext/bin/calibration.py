"""Stage 11: how far a decoder's confidence is from how often it is right, for exported models."""

import argparse
import json
import sys
from pathlib import Path

from espnet_ext.bin.arguments import add_out_dir
from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.provenance import provenance


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="calibration", description=__doc__)
    several = {"type": Path, "nargs": "+", "required": True}
    parser.add_argument(
        "--model_dir", **several, help="exported model (stage 9); of several, the mean posterior is measured"
    )
    parser.add_argument("--data_dir", **several, help="dumped, labelled sets (stage 3)")
    add_out_dir(parser, "where <set>.json of each set goes")
    parser.add_argument("--seconds", type=float, default=60.0, help="speech that is computed at once")
    parser.add_argument("--bins", type=int, default=15, help="intervals of the expected calibration error")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="measure on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    for name, value in (("threads", args.threads), ("bins", args.bins), ("seconds", args.seconds)):
        if not value > 0:
            raise UserError(f"--{name} {value}: expected more than 0")
    names = [folder.name for folder in args.data_dir]
    if len(set(names)) < len(names):
        raise UserError(f"--data_dir {' '.join(map(str, args.data_dir))}: a set occurs twice")
    import torch

    from espnet_ext.decode.ensemble import describe_models
    from espnet_ext.decode.measure import measure_set, open_models

    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no GPU here; measure with --ngpu 0")
    torch.set_num_threads(args.threads)
    models = open_models(args.model_dir, "cuda" if args.ngpu else "cpu")
    for name, folder in zip(names, args.data_dir, strict=True):
        calibration, left_out = measure_set(models, args.model_dir[0], folder, args.seconds, args.bins)
        figures = {each: round(value, 6) for each, value in calibration.figures().items()}
        result = {
            **figures,
            "labels": calibration.positions,
            "bins": args.bins,
            "too_short": left_out,
            "data_dir": str(folder),
            **describe_models(args.model_dir),
            **provenance(),
        }
        atomic_write_text(args.out_dir / f"{name}.json", json.dumps(result, indent=1) + "\n")
        print(
            f"{args.out_dir / name}.json: ECE {figures['ece']:.4f}, mean largest posterior "
            f"{figures['max_posterior']:.4f}, accuracy {figures['accuracy']:.4f}, {result['labels']} labels"
            + (f"; {left_out} utterances too short to measure" if left_out else ""),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
