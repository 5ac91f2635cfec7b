"""Averages, initial parameters and checkpoints: right values, and errors that name what is wrong."""

import os
import pickle

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train import checkpoint
from espnet_ext.train.averaging import average
from espnet_ext.train.init_param import init_param, load_state


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {"encoder": torch.nn.Linear(3, 2), "decoder": torch.nn.Linear(2, 4), "norm": torch.nn.BatchNorm1d(2)}
    )


def test_average_of_one_ten_hundred(tmp_path):
    paths = []
    for number, value in enumerate((1.0, 10.0, 100.0)):
        paths.append(tmp_path / f"{number}.pth")
        torch.save({"weight": torch.full((2,), value), "count": torch.tensor(number)}, paths[-1])
    assert average(paths)["weight"].tolist() == [37.0, 37.0]
    assert average(paths)["count"].item() == 0
    assert average(paths[1:])["weight"].tolist() == [55.0, 55.0]  # the inputs were not overwritten
    assert average(paths[:1])["weight"].tolist() == [1.0, 1.0]


def test_average_sums_in_double_precision(tmp_path):
    """A sum in single precision loses what is small beside 2^24."""
    paths = []
    for number, value in enumerate((2.0**24, 1.0, 1.0)):
        paths.append(tmp_path / f"{number}.pth")
        torch.save({"weight": torch.tensor([value]), "step": torch.tensor(7 - number)}, paths[-1])
    mean = average(paths)
    assert mean["weight"].dtype == torch.float32 and mean["weight"].item() == (2**24 + 2) / 3
    assert mean["step"].item() == 7, "counters are those of the first"


def test_average_refuses_other_names(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "1.pth")
    torch.save({"b": torch.zeros(1)}, tmp_path / "2.pth")
    with pytest.raises(UserError, match=r"2\.pth: differs from .*1\.pth in a, b"):
        average([tmp_path / "1.pth", tmp_path / "2.pth"])
    torch.save({"a": torch.zeros(1, 1)}, tmp_path / "3.pth")  # which would spread out in a sum
    with pytest.raises(UserError, match=r"3\.pth: differs from .*1\.pth in a"):
        average([tmp_path / "1.pth", tmp_path / "3.pth"])


def test_init_says_what_is_loaded_and_what_is_fresh(model, tmp_path):
    other = {"encoder.weight": torch.ones(2, 3), "encoder.bias": torch.ones(2)}
    torch.save(other, tmp_path / "m.pth")
    result = init_param(model, str(tmp_path / "m.pth"))
    assert model["encoder"].weight.eq(1).all()
    assert result.loaded == ["encoder.bias", "encoder.weight"]
    assert "2 tensors loaded, 7 fresh: decoder.bias, decoder.weight, norm.bias" in result.summary()


def test_init_source_destination_and_exclusion(model, tmp_path):
    torch.save(
        {
            "peers.1.weight": torch.full((2, 3), 7.0),
            "peers.1.bias": torch.ones(2),
            "peers.10.weight": torch.ones(9),
        },
        tmp_path / "m.pth",
    )
    bias = model["encoder"].bias.clone()
    result = init_param(model, f"{tmp_path / 'm.pth'}:peers.1:encoder:peers.1.bias")
    assert result.loaded == ["encoder.weight"]
    assert model["encoder"].weight.eq(7).all()
    assert torch.equal(model["encoder"].bias, bias)


def test_init_refuses_what_does_not_fit(model, tmp_path):
    torch.save({"encoder.weight": torch.ones(5, 5), "head.weight": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(
        UserError, match=r"2 tensors do not fit(.|\n)*encoder.weight \(5, 5\) against \(2, 3\)(.|\n)*head"
    ):
        init_param(model, str(tmp_path / "m.pth"))
    with pytest.raises(UserError, match="not one tensor fits"):
        init_param(model, str(tmp_path / "m.pth"), ignore_mismatch=True)


@pytest.mark.parametrize("colon", ["", ":encoder:encoder"])
def test_init_says_where_it_looked(model, tmp_path, monkeypatch, colon):
    """A relative path counts from the folder of the recipe, which is easily forgotten."""
    monkeypatch.chdir(tmp_path)
    for path, place in (
        ("nope.pth", f"{tmp_path}, which has no .pth file"),
        ("exp/a.pth", f"{tmp_path}/exp, which is"),
    ):
        with pytest.raises(UserError) as caught:
            init_param(model, path + colon)
        message = f"--init_param {path}{colon}: no such model file; looked for in {place}"
        assert str(caught.value).startswith(message)
    for number in range(10):
        (tmp_path / f"{number}epoch.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="which has 0epoch.pth, .*, 7epoch.pth, \\.\\.\\.$"):
        init_param(model, "nope.pth" + colon)
    with pytest.raises(UserError, match="^--init_param 3epoch.pth: cannot be read"):
        init_param(model, "3epoch.pth" + colon)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_foreign_files_never_run_code(tmp_path, write):
    target = tmp_path / "exploded"
    if write == "torch":
        torch.save({"weight": Bomb(target)}, tmp_path / "m.pth")
    else:
        (tmp_path / "m.pth").write_bytes(pickle.dumps({"weight": Bomb(target)}))
    with pytest.raises(UserError, match="never executed"):
        load_state(tmp_path / "m.pth")
    assert not target.exists()


def test_checkpoint_cut_anywhere_falls_back(tmp_path):
    for number in (1, 2):
        checkpoint.save({"number": number, "tensor": torch.arange(1000.0)}, tmp_path)
    whole = (tmp_path / checkpoint.NAME).read_bytes()
    assert checkpoint.load(tmp_path)["number"] == 2
    for tenth in range(10):
        (tmp_path / checkpoint.NAME).write_bytes(whole[: len(whole) * tenth // 10])
        assert checkpoint.load(tmp_path)["number"] == 1
    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"")
    with pytest.raises(UserError, match="move the folder away to start the training again"):
        checkpoint.load(tmp_path)


def test_no_checkpoint(tmp_path):
    assert checkpoint.load(tmp_path) is None
