"""Options that ESPnet's stand-alone transducer would leave out in silence."""

import argparse
from pathlib import Path

import pytest
import yaml
from espnet2.asr_transducer.encoder import building

from espnet_ext.asr.transducer_options import _BLOCKS, check_names
from espnet_ext.errors import UserError

EGS2 = Path(__file__).resolve().parents[2] / "egs2"


class Reading(dict):
    """Has every option, and notes which ones are read."""

    def __init__(self):
        super().__init__()
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return 7 if name == "conv_mod_kernel_size" else 8

    def get(self, name, default=None):
        self.read.add(name)
        return default


@pytest.mark.parametrize("kind", _BLOCKS)
def test_names_are_those_that_espnet_reads(kind):
    """Fails when another ESPnet reads other ones."""
    conf, main = Reading(), building.build_main_parameters()
    build = getattr(building, f"build_{kind}_block")
    (build(conf, False) if kind == "conv1d" else build(conf, main))()  # some are read when it is called
    assert conf.read == _BLOCKS[kind] - {"block_type", "num_blocks"}


def arguments(**changes) -> argparse.Namespace:
    block = {"block_type": "ebranchformer", "hidden_size": 16, "linear_size": 32, "conv_mod_kernel_size": 7}
    conf = {"main_conf": {}, "input_conf": {}, "body_conf": [block]}
    joint = changes.pop("joint", {})
    for name, value in changes.items():
        conf[f"{name}_conf"] = [block, block | value] if name == "body" else value
    return argparse.Namespace(encoder_conf=conf, joint_network_conf=joint)


def test_what_espnet_knows_passes():
    check_names(arguments(main={"short_chunk_size": 8, "swish_beta": 2.0}, joint={"swish_beta": 2.0}))
    check_names(arguments(joint=None, main=None, input={"vgg_like": True, "output_size": 16}))
    for path in EGS2.glob("*/asr1/conf/*.yaml"):
        conf = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "joint_network_conf" in conf:
            check_names(argparse.Namespace(**conf))


@pytest.mark.parametrize(
    ("changes", "where", "meant"),
    [
        ({"joint": {"joint_spac_size": 3}}, "joint_network_conf", "joint_space_size"),
        ({"main": {"short_chunk": 3}}, "encoder_conf: main_conf", "short_chunk_size"),
        ({"input": {"conv_sise": 8}}, "encoder_conf: input_conf", "conv_size"),
        ({"body": {"depthwise_conv_kernel_size": 3}}, "body_conf: ebranchformer", "depth_conv_kernel_size"),
        ({"body": {"att_dropout": 0.1}}, "body_conf: ebranchformer", "att_dropout_rate"),
    ],
)
def test_what_it_would_ignore_is_refused(changes, where, meant):
    with pytest.raises(UserError, match=f"{where}: there is no option .*, did you mean {meant}?"):
        check_names(arguments(**changes))
