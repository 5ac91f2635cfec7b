"""Train the causal language model of decoding on sentences without audio (stage 6, `--use_lm true`)."""

import argparse
import sys

import yaml

from espnet_ext.bin.arguments import add_lm_text, add_lm_training
from espnet_ext.errors import UserError, main_guard
from espnet_ext.train.signals import StopRequest

#: ESPnet's models that batched decoding knows.
MODELS = ("seq_rnn", "transformer")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; the YAML of `--config` holds the same names."""
    parser = argparse.ArgumentParser(prog="causal_lm_train", description=__doc__)
    add_lm_text(parser, "export/ appears")
    add = parser.add_argument
    add("--lm", choices=MODELS, default="transformer", help="ESPnet's name of the model")
    add("--lm_conf", type=_mapping, default={}, help="its options, in ESPnet's names: '{layer: 4}'")
    add_lm_training(parser)
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
        if not isinstance(args.lm_conf, dict):  # a YAML's values are not checked
            raise UserError(f"{args.config}: lm_conf: expected a mapping, found {args.lm_conf!r}")
        return train_causal_lm(args, stop)


if __name__ == "__main__":
    sys.exit(main())
