"""Stage 4: learn the token list (SentencePiece or characters) from transcripts."""

import argparse
import sys
from pathlib import Path

from espnet_ext.bin.arguments import add_out_dir
from espnet_ext.data.tokens import TOKEN_TYPES, make_tokens
from espnet_ext.errors import main_guard


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="make_tokens", description=__doc__)
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="files of '<id> <sentence>' lines"
    )
    add_out_dir(parser, "gets tokens.txt and bpe.model")
    parser.add_argument(
        "--token_type", choices=TOKEN_TYPES, default="unigram", help="kind of tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--nbpe", type=int, default=200, help="length of the token list (not for char) (default: %(default)s)"
    )
    parser.add_argument(
        "--check_text",
        type=Path,
        nargs="*",
        default=[],
        help="report characters of these files outside the list",
    )
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = get_parser().parse_args(argv)
    print(
        make_tokens(
            arguments.text, arguments.out_dir, arguments.token_type, arguments.nbpe, arguments.check_text
        )
    )


if __name__ == "__main__":
    sys.exit(main())
