"""Read decoding configurations as stage 10 will, before a model is trained for them.

`check_decoding --model YAML --transducer true|false --use_lm true|false --configs YAML...` ends with a
message where stage 10 would.
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.decode.options import DecodeOptions, read_grid, read_options
from espnet_ext.errors import UserError, main_guard
from espnet_ext.recipe.options import read_yaml


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="check_decoding", description=__doc__)
    truth = {"choices": ("true", "false"), "required": True}
    parser.add_argument("--model", required=True, help="YAML that describes the model, for messages")
    parser.add_argument("--transducer", **truth, help="whether the model is a stand-alone transducer")
    parser.add_argument("--use_lm", **truth, help="whether there is a language model for decoding")
    parser.add_argument("--configs", type=Path, nargs="+", required=True, help="ways to decode")
    args = parser.parse_args(arguments)
    for config in args.configs:
        ways = read_grid(config)[1] if "tune" in read_yaml(config) else [read_options(config)]
        for way in ways:
            _check(way, config, args.model, args.transducer == "true", args.use_lm == "true")
    return 0


def _check(way: DecodeOptions, config: Path, model: str, transducer: bool, use_lm: bool) -> None:
    """Refuse what the kind of model does not have, or a weight of a language model that is not there."""
    if way.method != "ctc_greedy" and way.method.startswith("transducer") != transducer:
        kind = "is a transducer" if transducer else "is an attention model"
        right = "transducer transducer_greedy ctc" if transducer else "joint att ctc"
        raise UserError(
            f"{config}: method {way.method} cannot decode the model of {model}, which {kind}; take "
            f'--decode_configs "{right}", or leave models of the other kind out with --models own or start'
        )
    if way.lm_weight > 0 and not use_lm:
        raise UserError(
            f"{config}: lm_weight {way.lm_weight:g}: there is no language model; add --use_lm true, and "
            "stage 6 trains one"
        )


if __name__ == "__main__":
    sys.exit(main())
