"""Train the small masked language model that `--method lm_transfer` learns from by default (stage 6)."""

import argparse
import sys

from espnet_ext.bin.arguments import add_lm_text, add_lm_training
from espnet_ext.errors import main_guard
from espnet_ext.train.signals import StopRequest


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; the YAML of `--config` holds the same names."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_lm_text(parser, "lm.pth and lm.yaml appear")
    add = parser.add_argument
    add("--size", type=int, default=128, help="of the embeddings")
    add("--heads", type=int, default=4, help="of the self-attention")
    add("--blocks", type=int, default=4, help="of the Transformer")
    add("--dropout_rate", type=float, default=0.1)
    add("--mask_rate", type=float, default=0.15, help="part of a sentence's tokens that is to be guessed")
    add_lm_training(parser)
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
