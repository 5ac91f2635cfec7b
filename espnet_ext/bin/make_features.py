"""Stage 3: check every audio file, bring it to one rate and channel, drop what is too long or too short."""

import argparse
import sys

from espnet_ext.bin.arguments import add_in_dir, add_nj, add_out_dir
from espnet_ext.data.features import FEATS_TYPES, MULTICHANNEL, Options, make_features
from espnet_ext.data.lengths import sample_rate
from espnet_ext.errors import main_guard


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="make_features", description=__doc__)
    add_in_dir(parser)
    add_out_dir(parser)
    parser.add_argument(
        "--feats_type",
        choices=FEATS_TYPES,
        default="raw",
        help="raw audio or filterbanks (default: %(default)s)",
    )
    parser.add_argument(
        "--fs",
        type=sample_rate,
        default=16000,
        help="sample rate in Hz (16k is understood) (default: %(default)s)",
    )
    parser.add_argument(
        "--min_duration",
        type=float,
        default=0.1,
        help="seconds; shorter or equal: dropped (default: %(default)s)",
    )
    parser.add_argument(
        "--max_duration",
        type=float,
        default=20.0,
        help="seconds; longer or equal: dropped (default: %(default)s)",
    )
    parser.add_argument(
        "--max_drop_fraction",
        type=float,
        default=0.05,
        help="fail if a larger part of the set is dropped (default: %(default)s)",
    )
    parser.add_argument(
        "--multichannel",
        choices=MULTICHANNEL,
        default="error",
        help="what to do with more than one channel (default: %(default)s)",
    )
    add_nj(parser)
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(get_parser().parse_args(argv))
    in_dir, out_dir = arguments.pop("in_dir"), arguments.pop("out_dir")
    print(make_features(in_dir, out_dir, Options(**arguments)))


if __name__ == "__main__":
    sys.exit(main())
