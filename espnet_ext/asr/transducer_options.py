"""Names of a stand-alone transducer's options: ESPnet leaves out in silence those that it does not know.

It takes blocks and input layer from mappings by name, and hands every further option of `main_conf` and of
the joint network to the activation function, which keeps what it knows.
"""

import argparse
import difflib
import inspect
from collections.abc import Iterable, Mapping

from espnet2.asr_transducer.activation import get_activation
from espnet2.asr_transducer.encoder.building import build_main_parameters
from espnet2.asr_transducer.joint_network import JointNetwork

from espnet_ext.errors import UserError

_INPUT = {"vgg_like", "conv_size", "subsampling_factor", "output_size"}
_BLOCK = {"block_type", "num_blocks", "dropout_rate"}
_ATTENTION = _BLOCK | {
    "hidden_size",
    "linear_size",
    "heads",
    "att_dropout_rate",
    "norm_eps",
    "norm_partial",
    "conv_mod_kernel_size",
    "conv_mod_norm_eps",
}
#: What the builders of espnet2/asr_transducer/encoder/building.py read.
_BLOCKS = {
    "branchformer": _ATTENTION | {"conv_mod_norm_partial"},
    "conformer": _ATTENTION | {"pos_wise_dropout_rate", "conv_mod_norm_momentum"},
    "ebranchformer": _ATTENTION
    | {"pos_wise_dropout_rate", "conv_mod_norm_partial", "depth_conv_kernel_size"},
    "conv1d": _BLOCK
    | {
        "input_size",
        "output_size",
        "kernel_size",
        "stride",
        "dilation",
        "groups",
        "bias",
        "relu",
        "batch_norm",
    },
}


def _named(function) -> set[str]:
    return {
        name for name, each in inspect.signature(function).parameters.items() if each.kind != each.VAR_KEYWORD
    }


def check_names(args: argparse.Namespace) -> None:
    """Refuse options that ESPnet would ignore.

    Args:
        args: of the training, with `encoder_conf` and `joint_network_conf`.

    Raises:
        UserError: names the option, where it stands, and one that is alike.
    """
    activation = _named(get_activation) - {"activation_type"}
    joint = _named(JointNetwork.__init__) - {"self", "output_size", "encoder_size", "decoder_size"}
    _check("joint_network_conf", args.joint_network_conf, joint | activation)
    encoder = args.encoder_conf or {}
    _check("encoder_conf: main_conf", encoder.get("main_conf"), _named(build_main_parameters) | activation)
    _check("encoder_conf: input_conf", encoder.get("input_conf"), _INPUT)
    for block in encoder.get("body_conf") or []:
        kind = block.get("block_type")
        if kind in _BLOCKS:  # ESPnet tells which kinds there are
            _check(f"encoder_conf: body_conf: {kind}", block, _BLOCKS[kind])


def _check(where: str, given: Mapping | None, known: Iterable[str]) -> None:
    for name in given or {}:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise UserError(
                f"{where}: there is no option {name!r}{f', did you mean {close[0]}?' if close else ''}; "
                "leave it out, or correct it"
            )
