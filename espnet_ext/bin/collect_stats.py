"""Stage 5: lengths of speech and text, what CTC cannot align, and statistics for `normalize: global_mvn`."""

import argparse
import sys
from pathlib import Path

from espnet_ext.bin.arguments import add_nj, add_out_dir
from espnet_ext.data.stats import Model, Options, collect_stats
from espnet_ext.data.tokens import TOKEN_TYPES, Tokenizer
from espnet_ext.errors import UserError, main_guard


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="collect_stats", description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="directory written by make_features")
    add_out_dir(parser)
    parser.add_argument("--config", type=Path, help="training YAML: frontend_conf and encoder_conf are read")
    parser.add_argument("--token_list", type=Path, help="tokens.txt, needed if the set has transcripts")
    parser.add_argument(
        "--token_type", choices=TOKEN_TYPES, default="bpe", help="kind of tokens (default: %(default)s)"
    )
    parser.add_argument("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    parser.add_argument(
        "--feats_stats", type=_true_or_false, default=True, help="false: lengths only (default: %(default)s)"
    )
    parser.add_argument(
        "--max_hours", type=float, help="feature statistics of a random choice of so many hours"
    )
    parser.add_argument(
        "--max_drop_fraction",
        type=float,
        default=0.05,
        help="fail if a larger part of the set cannot be aligned (default: %(default)s)",
    )
    parser.add_argument(
        "--max_outside_fraction",
        type=float,
        default=0.05,
        help="fail if a larger part of the sentences has characters without token (default: %(default)s)",
    )
    add_nj(parser)
    return parser


def _true_or_false(value: str) -> bool:
    if value not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {value!r}")
    return value == "true"


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(get_parser().parse_args(argv))
    data_dir, out_dir = arguments.pop("data_dir"), arguments.pop("out_dir")
    model = Model.read(arguments.pop("config"))
    token_list, token_type, bpemodel = (
        arguments.pop(name) for name in ("token_list", "token_type", "bpemodel")
    )
    if bpemodel is not None and token_list is None:
        raise UserError("--bpemodel is given without --token_list")
    tokenizer = Tokenizer(token_list, token_type, bpemodel) if token_list else None
    print(collect_stats(data_dir, out_dir, model, tokenizer, Options(**arguments)))


if __name__ == "__main__":
    sys.exit(main())
