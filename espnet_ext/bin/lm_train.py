"""Train the small masked language model that `--method lm_transfer` learns from by default (stage 6)."""

import argparse
import sys
from pathlib import Path

from espnet_ext.data.tokens import TOKEN_TYPES
from espnet_ext.errors import main_guard
from espnet_ext.train.signals import StopRequest


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; the YAML of `--config` holds the same names."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, help="YAML with options; the command line counts for more")
    add("--output_dir", type=Path, required=True, help="the experiment; lm.pth and lm.yaml appear at its end")
    add("--text", type=Path, required=True, help="sentences to train on, lines `<id> <sentence>`")
    add("--valid_text", type=Path, required=True, help="sentences that choose the best epochs")
    add("--token_list", type=Path, required=True, help="the recogniser's tokens")
    add("--token_type", choices=TOKEN_TYPES, default="bpe", help="their kind")
    add("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    add("--max_sentences", type=int, default=0, help="train on so many of the sentences (0: all)")
    add("--size", type=int, default=128, help="of the embeddings")
    add("--heads", type=int, default=4, help="of the self-attention")
    add("--blocks", type=int, default=4, help="of the Transformer")
    add("--dropout_rate", type=float, default=0.1)
    add("--mask_rate", type=float, default=0.15, help="part of a sentence's tokens that is to be guessed")
    add("--max_epoch", type=int, default=10)
    add("--tokens_per_step", type=int, default=4000, help="padding counted")
    add("--lr", type=float, default=0.001, help="peak of the learning rate")
    add("--warmup_steps", type=int, default=200)
    add("--weight_decay", type=float, default=0.01)
    add("--grad_clip", type=float, default=5.0)
    add("--nbest", type=int, default=3, help="best epochs that are averaged")
    add("--seed", type=int, default=1)
    add("--ngpu", type=int, choices=[0, 1], default=0)
    add("--resume", choices=["true", "false"], default="true")
    add("--checkpoint_minutes", type=float, default=10.0)
    add("--log_interval", type=int, default=100)
    return parser


@main_guard
def main(argv: list[str] | None = None) -> int:
    """Returns the exit status; 75 means stopped by a signal, run again to go on."""
    with StopRequest() as stop:
        parser = get_parser()
        from espnet_ext.lm.training import parse
        from espnet_ext.lm_transfer.lm_command import train_lm

        return train_lm(parse(parser, argv), stop)


if __name__ == "__main__":
    sys.exit(main())
