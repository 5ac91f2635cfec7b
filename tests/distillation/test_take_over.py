"""Stage 1's checkpoints that are not of their configuration: refused, and the model stays as it is."""

import json

import pytest
import torch
import yaml

from espnet_ext.distillation.losses import Heads
from espnet_ext.distillation.stage1 import take_over
from espnet_ext.distillation.task import DistillationTask
from espnet_ext.errors import UserError


@pytest.fixture
def stage1(toy):
    """What a finished stage 1 leaves, as initialised: (its folder, the student's options)."""
    args = toy.args(DistillationTask)
    folder = toy.folder / "encoder"
    (folder / "head").mkdir(parents=True)
    torch.save(DistillationTask.build_model(args).state_dict(), folder / "1epoch.pth")
    torch.save(Heads(16, {"one": 6}).state_dict(), folder / "head" / "1epoch.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump({n: v for n, v in vars(args).items() if _plain(v)}))
    for place in (folder, folder / "head"):
        (place / "nbest.json").write_text(json.dumps({"criterion": ["valid", "loss", "min"], "epochs": [1]}))
    (folder / "train_summary.json").write_text("{}")
    return folder, args


def _plain(value) -> bool:
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


NAME = "encoder.embed.output.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NAME: None}, rf"1 missing \({NAME}\)"),
        ({"encoder.further": torch.ones(2)}, r"1 not in the model \(encoder.further\)"),
        ({NAME: torch.ones(3)}, rf"1 of another shape \({NAME}\)"),
    ],
    ids=["missing", "further", "shape"],
)
def test_encoder(stage1, change, message):
    """Y5: not one tensor of the encoder may be left as initialised, or dropped, in silence."""
    folder, args = stage1
    model = DistillationTask.build_model(args)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.load(folder / "1epoch.pth", weights_only=True)
    assert NAME in state
    torch.save({n: v for n, v in (state | change).items() if v is not None}, folder / "1epoch.pth")
    with pytest.raises(UserError, match=f"^{folder}: does not fit its configuration: {message}"):
        take_over(model, folder, vars(args), 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.save(state | {"decoder.further": torch.ones(2)}, folder / "1epoch.pth")  # nobody reads that
    assert "encoder" not in {name.split(".")[0] for name in take_over(model, folder, vars(args), 1).fresh}


def test_projections(stage1):
    folder, args = stage1
    model = DistillationTask.build_model(args)
    with pytest.raises(
        UserError, match=rf"{folder / 'head'}: .* 2 of another shape \(one.bias, one.weight\)"
    ):
        take_over(model, folder, vars(args), 1, Heads(16, {"one": 7}))
