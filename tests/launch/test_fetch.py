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


def test_weights_and_settings_are_looked_at_with_the_teachers(tmp_path, monkeypatch, capsys):
    """Else a weight of a misspelt teacher, or a wrong storage, is found after hours of stage 6."""
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "targets.yaml"
    conf.write_text("teachers: {wavlm: {layer: 9}, wavlmm: {layer: 7}}\n")
    own = ["--check", "--own", "exp", "--config", "targets.yaml", "--weights"]
    places = ["--", "wavlm=exp/a/export", "hubert=exp/b/export"]
    assert fetch_teachers.main([*own, "wavlm=2", *places]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wavlm=exp/a/export: not there yet",
        "  layer 9, reduce mean, stored as fp16",
        "hubert=exp/b/export: not there yet",
        "  layer last, reduce mean, stored as fp16 (targets.yaml has no settings of hubert); its weight "
        "is 0: not used",
        "  targets.yaml has settings of wavlmm, which is no teacher here",
    ]
    assert fetch_teachers.main([*own, *places]) == 0  # all alike
    for words, content, message in (
        (
            ["huber=1"],
            "",
            "--teacher_weights huber=1: expected NAME=WEIGHT of one of the teachers, wavlm, hubert",
        ),
        (["wavlm=much"], "", "--teacher_weights wavlm=much: expected a weight of 0 or more, as wavlm=0.5"),
        (["wavlm=inf"], "", "wavlm=inf: expected a weight"),
        (["wavlm"], "", "--teacher_weights wavlm: expected a weight"),
        (["wavlm=0"], "", "none is above 0"),
        (["wavlm=1", "wavlm=2"], "", "wavlm occurs twice"),
        ([], "storage: int4\n", "targets.yaml: storage int4: expected fp16, int8"),
        ([], "batch_seconds: true\n", "targets.yaml: batch_seconds True: expected a number above 0"),
        ([], "shard_seconds: .nan\n", "targets.yaml: shard_seconds nan: expected a number above 0"),
        ([], "teachers:\n", "targets.yaml: teachers: expected options of each"),
        ([], "teachers: [wavlm]\n", "targets.yaml: teachers: expected options of each"),
        ([], "teachers: {wavlm: {layer: 0}}\n", "targets.yaml: teachers: wavlm: layer 0: expected"),
    ):
        conf.write_text(content)
        assert fetch_teachers.main([*own, *words, *places]) == 1
        assert message in capsys.readouterr().err


def test_teachers_that_are_there_are_held_against_the_student(tmp_path, capsys):
    """A frame rate, layer or folder that does not fit is found before stage 6, too."""
    from tests.distillation.conftest import save_huggingface

    folder = save_huggingface("hubert", tmp_path / "hubert")
    student, conf = tmp_path / "student.yaml", tmp_path / "targets.yaml"

    def check(layer: int, hop: int, rate: int = 16000, own: str = "exp") -> str:
        conf.write_text(f"teachers: {{one: {{layer: {layer}}}}}\n")
        student.write_text(
            f"frontend_conf: {{fs: {rate}, hop_length: {hop}}}\n"
            "encoder_conf: {input_conf: {}, body_conf: []}\n"
        )
        capsys.readouterr()
        options = ["--own", str(tmp_path / own), "--config", str(conf), "--student", str(student)]
        fetch_teachers.main(["--check", *options, "--", f"one={folder}"])
        return capsys.readouterr().err

    assert check(3, 160) == ""
    assert f"teacher {folder}: layer 99: it has 3 layers" in check(99, 160)
    assert "teacher one: a frame every 320 samples, the student's are 768 apart" in check(3, 192)
    assert "teacher one: hears 16000 Hz, this audio has 8000 Hz" in check(3, 160, 8000)
    (folder / "model.safetensors").unlink()
    assert "no weights in this folder" in check(3, 160)
    assert check(3, 160, own="hubert") == ""  # what stage 6 writes is made anew before it is used


def test_a_model_that_is_nowhere(hub):
    with pytest.raises(UserError, match="teacher x/y: is no file or folder, not in the cache .* no route to"):
        fetch_teachers.fetch("x/y")
