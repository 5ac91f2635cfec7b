"""Teachers are downloaded where the internet is, and only those of a hub."""

import sys
import types

import pytest

from espnet_ext.bin import fetch_teachers
from espnet_ext.errors import UserError


@pytest.fixture
def hub(monkeypatch):
    """A hub that has `owner/model`; a cache that has `owner/cached`."""
    calls = []

    def snapshot_download(name, ignore_patterns, local_files_only=False):
        calls.append(name)
        if name == "owner/model" or (local_files_only and name == "owner/cached"):
            return f"/cache/{name}"
        raise OSError("no route to the hub\nand more")

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_what_is_fetched(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    own = ["--own", "exp", "--"]
    places = ["a=owner/model", "b=here", "c=exp/pretrain", "d=./not/yet", "owner/cached"]
    assert fetch_teachers.main([*own, *places]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "owner/model: /cache/owner/model", "here: not of a hub", "exp/pretrain: not of a hub",
        "./not/yet: not of a hub", "owner/cached: /cache/owner/cached",
    ]  # fmt: skip
    assert "exp/pretrain" not in hub


def test_teachers_are_looked_at_before_anything_is_trained(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubert").mkdir()
    (tmp_path / "hubert/config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    own = ["--check", "--own", "exp", "--"]
    assert fetch_teachers.main([*own, "a=owner/model", "b=hubert", "c=exp/pretrain/export"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the HuggingFace hub" in lines[0]
    assert lines[1:] == ["b=hubert: huggingface", "c=exp/pretrain/export: not there yet"]
    for teachers, message in (
        (["hubert"], "--teacher hubert: expected NAME=PLACE"),
        (["a=hubert", "a=hubert"], "a occurs twice"),
        (["a=/no/where"], "teacher /no/where: no such file or folder"),
        (["a=empty"], "teacher empty: unknown type: expected a HuggingFace folder"),
        (["a=models/gone/hubert"], "no such file or folder, and no name on a hub"),
        (["a=gone/model.pth"], "teacher gone/model.pth: no such file or folder"),
    ):
        assert fetch_teachers.main([*own, *teachers]) == 1
        assert message in capsys.readouterr().err
    assert hub == []


def test_a_model_that_is_nowhere(hub):
    with pytest.raises(UserError, match="teacher x/y: is no file or folder, not in the cache .* no route to"):
        fetch_teachers.fetch("x/y")
