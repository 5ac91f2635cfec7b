"""Compute a language model's embeddings of all transcripts, for `--method lm_transfer` (stage 7)."""

import argparse
import sys
from pathlib import Path

from espnet_ext.data.tokens import TOKEN_TYPES
from espnet_ext.errors import UserError, main_guard


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--teacher",
        required=True,
        help="folder of lm_train, HuggingFace folder or hub name, minilm (a package), or table of vectors",
    )
    add("--text", type=Path, nargs="+", help="`text` files of the training sets")
    add("--other_text", type=Path, nargs="*", default=[], help="`text` files of further sets (validation)")
    add("--token_list", type=Path, required=True, help="the recogniser's tokens")
    add("--token_type", choices=TOKEN_TYPES, default="bpe", help="their kind (default: %(default)s)")
    add("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    add("--out_dir", type=Path, help="folder of the targets; an interrupted dump goes on there")
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
    add("--check", action="store_true", help="look at the LM alone: neither --text nor --out_dir is needed")
    add("--lm_config", type=Path, help="with --check: of lm_train, which is still to train the LM")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = get_parser()
    a = parser.parse_args(argv)
    if not a.check and not (a.text and a.out_dir):
        parser.error("--text and --out_dir are needed")
    if a.batch_size < 1:
        raise UserError(f"--batch_size {a.batch_size}: expected 1 or more")
    import torch

    from espnet_ext.lm_transfer.alignment import SpanTokenizer
    from espnet_ext.lm_transfer.dump import Dump, tokenizer_identity
    from espnet_ext.lm_transfer.teachers import load_teacher, look

    tokenizer = SpanTokenizer(a.token_list, a.token_type, a.bpemodel)
    if a.check:
        print(look(a.teacher, tokenizer, a.layers, a.case, a.lm_config and _blocks(a.lm_config)))
        return 0
    lacks_gpu = a.ngpu > 0 and not torch.cuda.is_available()
    if lacks_gpu and not a.dry_run:
        raise UserError("--ngpu 1: no GPU is visible here; use --ngpu 0 or check `nvidia-smi`")
    identity = tokenizer_identity(tokenizer.tokens, a.token_type, a.bpemodel)
    device = "cuda" if a.ngpu and not lacks_gpu else "cpu"
    teacher = load_teacher(a.teacher, tokenizer, a.layers, a.case, device)
    dump = Dump(a.text, a.other_text, tokenizer, identity, teacher, a.out_dir, a.batch_size)
    if a.dry_run:  # of the machine that submits a job, perhaps
        where = " on a CPU, since no GPU is visible here" if lacks_gpu else ""
        print(f"{dump.cost()}{where}; nothing is written (--dry_run)")
    else:
        print(dump.run())
    return 0


def _blocks(config: Path) -> int:
    """Layers of the LM that `lm_train` will train; what else is wrong in its YAML it says itself."""
    from espnet_ext.bin import lm_train
    from espnet_ext.lm.training import parse

    needed = [f"--{action.dest}=-" for action in lm_train.get_parser()._actions if action.required]
    return parse(lm_train.get_parser(), ["--config", str(config), *needed]).blocks


if __name__ == "__main__":
    sys.exit(main())
