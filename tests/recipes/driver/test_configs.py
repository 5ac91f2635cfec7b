"""A configuration that does not exist: the message tells what there is."""

import pytest

from espnet_ext.recipe.configs import known_configs
from espnet_ext.recipe.options import Option


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A recipe beside a template, both with configurations; returns the template, as seen from the recipe."""
    names = "recipe/conf/decode_own.yaml recipe/conf/decode_joint.yaml recipe/conf/pretrain.yaml"
    names += " template/conf/decode_joint.yaml template/conf/decode_att.yaml template/conf/decode.txt"
    for file in (tmp_path / name for name in names.split()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path / "recipe")
    return "../template"


DECODE = Option("decode_configs", "group", "", "configs", file="conf/decode_{}.yaml")
PLAIN = Option("pretrain_config", "group", "", "config")


@pytest.mark.parametrize(
    ("option", "missing", "message"),
    [
        (DECODE, "conf/decode_xyz.yaml", ". There is: att, joint, own"),
        (DECODE, "conf/decode_jiont.yaml", ": did you mean joint? There is: att, joint, own"),
        (PLAIN, "conf/pretrian.yaml", ": did you mean pretrain?"),
        (PLAIN, "conf/xyz.yaml", ""),
        (PLAIN, "/nowhere/pretrain.yaml", ""),
    ],
)
def test_what_there_is(folders, option, missing, message):
    assert known_configs(option, missing, folders) == message
