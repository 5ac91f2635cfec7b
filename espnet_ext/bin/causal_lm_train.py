"""Train the causal language model of decoding on sentences without audio (stage 6, `--use_lm true`)."""

import argparse
import sys
from pathlib import Path

import yaml

from espnet_ext.data.tokens import TOKEN_TYPES
from espnet_ext.errors import UserError, main_guard
from espnet_ext.train.signals import StopRequest

#: ESPnet's models that batched decoding knows.
MODELS = ("seq_rnn", "transformer")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; the YAML of `--config` holds the same names."""
    parser = argparse.ArgumentParser(prog="causal_lm_train", description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, help="YAML with options; the command line counts for more")
    add("--output_dir", type=Path, required=True, help="the experiment; export/ appears at its end")
    add("--text", type=Path, required=True, help="sentences to train on, lines `<id> <sentence>`")
    add("--valid_text", type=Path, required=True, help="sentences that choose the best epochs")
    add("--token_list", type=Path, required=True, help="the recogniser's tokens")
    add("--token_type", choices=TOKEN_TYPES, default="bpe", help="their kind")
    add("--bpemodel", type=Path, help="SentencePiece model (not for char)")
    add("--max_sentences", type=int, default=0, help="train on so many of the sentences (0: all)")
    add("--lm", choices=MODELS, default="transformer", help="ESPnet's name of the model")
    add("--lm_conf", type=_mapping, default={}, help="its options, in ESPnet's names: '{layer: 4}'")
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


def _mapping(text: str) -> dict:
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a mapping as '{{layer: 4}}', found {text!r}")
    return found


@main_guard
def main(argv: list[str] | None = None) -> int:
    """Returns the exit status; 75 means stopped by a signal, run again to go on."""
    with StopRequest() as stop:
        parser = get_parser()
        from espnet_ext.lm.causal import train_causal_lm
        from espnet_ext.lm.training import parse

        args = parse(parser, argv)
        if not isinstance(args.lm_conf, dict) or args.lm not in MODELS:  # a YAML's values are not checked
            raise UserError(f"{args.config}: expected lm: {' or '.join(MODELS)}, and a mapping lm_conf")
        return train_causal_lm(args, stop)


if __name__ == "__main__":
    sys.exit(main())
