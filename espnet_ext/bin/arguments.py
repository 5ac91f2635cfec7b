"""Options that several commands share."""

import argparse
from pathlib import Path

from espnet_ext.data.tokens import TOKEN_TYPES


def add_in_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--in_dir``."""
    parser.add_argument("--in_dir", type=Path, required=True, help="data directory to read, left untouched")


def add_out_dir(
    parser: argparse.ArgumentParser, what: str = "directory to write, replaced as a whole"
) -> None:
    """Add ``--out_dir``; ``what`` says what it is."""
    parser.add_argument("--out_dir", type=Path, required=True, help=what)


def add_nj(parser: argparse.ArgumentParser) -> None:
    """Add ``--nj`` of the commands that work through `espnet_ext.data.pool`."""
    parser.add_argument(
        "--nj",
        type=int,
        default=1,
        help="number of processes; the result does not depend on it (default: %(default)s)",
    )


def add_lm_text(parser: argparse.ArgumentParser, output: str) -> None:
    """Add what a language model is trained on; ``output`` says what appears in its folder at the end."""
    add = parser.add_argument
    add("--config", type=Path, help="YAML with options; the command line counts for more")
    add("--output_dir", type=Path, required=True, help=f"the experiment; {output} at its end")
    add("--text", type=Path, required=True, help="sentences to train on, lines `<id> <sentence>`")
    add("--valid_text", type=Path, required=True, help="sentences that choose the best epochs")
    add("--token_list", type=Path, required=True, help="the recogniser's tokens")
    add("--token_type", choices=TOKEN_TYPES, default="bpe", help="their kind")
    add("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    add("--max_sentences", type=int, default=0, help="train on so many of the sentences (0: all)")


def add_lm_training(parser: argparse.ArgumentParser) -> None:
    """Add how a language model is trained (`espnet_ext.lm.training`)."""
    add = parser.add_argument
    add("--max_epoch", type=int, default=10)
    add("--tokens_per_step", type=int, default=4000, help="padding counted")
    add("--lr", type=float, default=0.001, help="peak of the learning rate")
    add("--warmup_steps", type=int, default=200)
    add("--weight_decay", type=float, default=0.01)
    add("--grad_clip", type=float, default=5.0, help="largest norm of a gradient; 0 clips nothing")
    add("--nbest", type=int, default=3, help="best epochs that are averaged")
    add("--seed", type=int, default=1)
    add("--ngpu", type=int, choices=[0, 1], default=0)
    add("--resume", choices=["true", "false"], default="true")
    add("--checkpoint_minutes", type=float, default=10.0)
    add("--log_interval", type=int, default=100)
