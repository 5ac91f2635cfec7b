"""Compute a language model's embeddings of all transcripts, for `--method lm_transfer` (stage 7)."""

import argparse
import sys
from pathlib import Path

from espnet_ext.data.tokens import TOKEN_TYPES
from espnet_ext.errors import main_guard


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--teacher",
        required=True,
        help="folder of lm_train, HuggingFace folder or hub name, minilm (a package), or table of vectors",
    )
    add("--text", type=Path, nargs="+", required=True, help="`text` files of the training sets")
    add("--other_text", type=Path, nargs="*", default=[], help="`text` files of further sets (validation)")
    add("--token_list", type=Path, required=True, help="the recogniser's tokens")
    add("--token_type", choices=TOKEN_TYPES, default="bpe", help="their kind (default: %(default)s)")
    add("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    add(
        "--out_dir", type=Path, required=True, help="folder of the targets; an interrupted dump goes on there"
    )
    add(
        "--layers",
        default="last",
        help="last, mean:K of the last K layers, or sum of all (default: %(default)s)",
    )
    add("--case", choices=["lower", "keep"], default="lower", help="of the text that a HuggingFace LM reads")
    add(
        "--batch_size",
        type=int,
        default=32,
        help="transcripts that the LM reads at once (default: %(default)s)",
    )
    add("--ngpu", type=int, choices=[0, 1], default=0, help="1: the LM computes on a GPU")
    add("--dry_run", action="store_true", help="say how much disk and time it would take, and write nothing")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    a = get_parser().parse_args(argv)
    from espnet_ext.lm_transfer.alignment import SpanTokenizer
    from espnet_ext.lm_transfer.dump import Dump, tokenizer_identity
    from espnet_ext.lm_transfer.teachers import load_teacher

    tokenizer = SpanTokenizer(a.token_list, a.token_type, a.bpemodel)
    identity = tokenizer_identity(tokenizer.tokens, a.token_type, a.bpemodel)
    teacher = load_teacher(a.teacher, tokenizer, a.layers, a.case, "cuda" if a.ngpu else "cpu")
    dump = Dump(a.text, a.other_text, tokenizer, identity, teacher, a.out_dir, a.batch_size)
    print(f"{dump.cost()}; nothing is written (--dry_run)" if a.dry_run else dump.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
