"""An export is a plain ESPnet model: stock ESPnet reads it where this package cannot be imported."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_ext.asr.load import load_exported
from espnet_ext.asr.task import ASRTask
from espnet_ext.bin import export_model
from espnet_ext.errors import UserError
from espnet_ext.train import export as module
from espnet_ext.train.averaging import average
from espnet_ext.train.export import export

STOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "espnet_ext":
            raise ImportError("espnet_ext is not installed here")
sys.meta_path.insert(0, Refuse())
import numpy, torch
from espnet2.bin.asr_inference import Speech2Text
model = Speech2Text("config.yaml", "model.pth", beam_size=3, ctc_weight=0.3, device="cpu")
assert not any(name.startswith("espnet_ext") for name in sys.modules)
speech = numpy.load(sys.argv[1])
with torch.no_grad():
    encoded, _ = model.asr_model.encode(torch.from_numpy(speech)[None], torch.tensor([len(speech)]))
numpy.save(sys.argv[2], encoded.numpy())
print("HYPOTHESIS", model(speech)[0][0])
"""


@pytest.fixture(scope="module")
def trained(toy_corpus, tmp_path_factory):
    """A finished toy training with global normalisation."""
    folder = tmp_path_factory.mktemp("trained")
    features = np.random.default_rng(0).normal(-5, 3, (1000, 20))
    np.savez(folder / "feats_stats.npz", count=1000, sum=features.sum(0), sum_square=(features**2).sum(0))
    c = toy_corpus
    cmd = ["--config", str(c / "train.yaml"), "--output_dir", str(folder / "exp")]
    cmd += ["--token_list", str(c / "tokens.txt"), "--normalize", "global_mvn"]
    cmd += ["--normalize_conf", f"stats_file={folder / 'feats_stats.npz'}"]
    cmd += [f"--{s}_data_dir={c / 'dump'}" for s in ("train", "valid")]
    cmd += [f"--{s}_stats_dir={c / 'stats'}" for s in ("train", "valid")]
    assert ASRTask.main(cmd=cmd) == 0
    return folder / "exp"


def test_export_holds_the_average_and_relative_paths(trained, tmp_path):
    epochs = export(trained, tmp_path / "export", nbest=2)
    ranked = json.loads((trained / "nbest.json").read_text())["epochs"]
    assert epochs == ranked[:2]
    expected = average([trained / f"{epoch}epoch.pth" for epoch in ranked[:2]])
    state = torch.load(tmp_path / "export" / "model.pth", weights_only=True)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    text = (tmp_path / "export" / "config.yaml").read_text()
    assert str(trained) not in text and yaml.safe_load(text)["model"] == "espnet"
    (tmp_path / "export").rename(tmp_path / "elsewhere")
    load_exported(tmp_path / "elsewhere")


@pytest.mark.slow
def test_stock_espnet_decodes_it_without_this_package(trained, toy_corpus, tmp_path):
    export(trained, tmp_path / "export", nbest=3)
    speech, _ = soundfile.read(toy_corpus / "3.wav", dtype="float32")
    np.save(tmp_path / "speech.npy", speech)
    command = [sys.executable, "-c", STOCK, str(tmp_path / "speech.npy"), str(tmp_path / "encoded.npy")]
    done = subprocess.run(command, cwd=tmp_path / "export", capture_output=True, text=True)
    assert "HYPOTHESIS" in done.stdout, done.stderr
    model = load_exported(tmp_path / "export")
    with torch.no_grad():
        mine, _ = model.encode(torch.from_numpy(speech)[None], torch.tensor([len(speech)]))
    theirs = np.load(tmp_path / "encoded.npy")
    assert np.abs(mine.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_any_criterion_of_the_training(trained, tmp_path):
    """Which epochs are averaged is the criterion's choice."""
    path = trained / "nbest.json"
    text = path.read_text()
    first = json.loads(text)["criteria"][0]
    other = {"criterion": ["train", "loss", "min"], "epochs": first["epochs"][::-1]}
    path.write_text(json.dumps({**first, "criteria": [first, other]}))
    try:
        assert export(trained, tmp_path / "1", 2) == export(trained, tmp_path / "2", 2, "valid_acc")
        assert export(trained, tmp_path / "3", 2, "train_loss") == first["epochs"][::-1][:2]
        with pytest.raises(UserError, match="--criterion valid_los.* has train_loss, valid_acc"):
            export(trained, tmp_path / "4", 2, "valid_los")
    finally:
        path.write_text(text)


@pytest.mark.parametrize("text", ['{"epo', "[]", "{}", '{"epochs": [], "criterion": ["valid", "acc"]}', None])
def test_a_damaged_list_of_epochs_is_named(trained, tmp_path, text):
    shutil.copytree(trained, tmp_path / "exp")
    (tmp_path / "exp" / "nbest.json").unlink()
    if text is not None:
        (tmp_path / "exp" / "nbest.json").write_text(text)
    with pytest.raises(UserError, match=r"nbest\.json: (cannot be read|is damaged|expected a mapping)"):
        export(tmp_path / "exp", tmp_path / "export", nbest=1)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_a_damaged_epoch_comes_with_a_way_out(trained, tmp_path, capsys, change):
    """And what is said to help does."""
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    best = json.loads((exp / "nbest.json").read_text())["epochs"]

    def damage(epoch: int) -> None:
        file = exp / f"{epoch}epoch.pth"
        file.write_bytes(file.read_bytes()[:1000])
        if change == "gone":
            file.unlink()

    damage(best[2])
    command = [f"--exp_dir={exp}", f"--out_dir={tmp_path / 'export'}"]
    assert export_model.main([*command, "--nbest=3"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {exp / f'{best[2]}epoch.pth'}: ") and printed.count("\n") == 1
    assert "; put back a copy of it, average the better ones alone (--nbest 2), or run the stage" in printed
    assert export_model.main([*command, "--nbest=2"]) == 0
    damage(best[0])
    assert export_model.main([*command, "--nbest=3"]) == 1
    assert "; put back a copy of it, or run the stage of its training again" in capsys.readouterr().err


def test_parameters_that_are_not_the_configurations_are_refused(trained, tmp_path):
    """Names are compared in both directions before anything appears."""
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    best = exp / f"{json.loads((exp / 'nbest.json').read_text())['epochs'][0]}epoch.pth"
    state = torch.load(best, weights_only=True)
    bias = state.pop("ctc.ctc_lo.bias")
    torch.save(state | {"head.bias": bias}, best)
    with pytest.raises(UserError, match=r"1 missing \(ctc.ctc_lo.bias\); 1 not in the model \(head.bias\)"):
        export(exp, tmp_path / "export", nbest=1)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_an_export_that_computes_something_else_is_refused(trained, tmp_path, monkeypatch, factor):
    real, calls = module._encode, []

    def encode(*args):
        calls.append(None)
        return real(*args) * (factor if len(calls) == 2 else 1.0)

    monkeypatch.setattr(module, "_encode", encode)
    with pytest.raises(UserError, match="stock ESPnet computes something else, relative difference"):
        export(trained, tmp_path / "export", nbest=1)
    assert len(calls) == 2 and not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "size, file",
    [(100, "feats_stats.npz"), (2000, "model.pth"), (40_000, "model.pth"), (None, "config.yaml")],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(trained, tmp_path, full_disk, capsys, size, file):
    """Wherever it fills up; an export that is there stays."""
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    command = [f"--exp_dir={exp}", f"--out_dir={tmp_path / 'export'}"]
    if size is None:  # the parameters still fit, a long configuration does not
        config = yaml.safe_load((exp / "config.yaml").read_text())
        (exp / "config.yaml").write_text(yaml.safe_dump(config | {"cleaner": "x" * 1_000_000}))
        size = 900_000
    for there in (False, True):
        with full_disk(size):
            assert export_model.main([*command, "--force=true"]) == 1
        printed = capsys.readouterr().err
        where = tmp_path / "export" / file
        assert printed == f"error: {where}: File too large; make room and run it again\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["exp"] + ["export"] * there
        (tmp_path / "export").mkdir(exist_ok=True)


def test_the_tokenizer_comes_along(trained, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    (tmp_path / "pieces.model").write_bytes(b"pieces")
    config = yaml.safe_load((exp / "config.yaml").read_text()) | {"bpemodel": str(tmp_path / "pieces.model")}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    export(exp, tmp_path / "export", nbest=1)
    assert (tmp_path / "export" / "bpe.model").read_bytes() == b"pieces"
    assert yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())["bpemodel"] == "bpe.model"


def test_unfinished_training_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="has not finished"):
        export(tmp_path, tmp_path / "export", nbest=1)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_load_refuses_other_names(trained, tmp_path, change):
    export(trained, tmp_path / "export", nbest=1)
    state = torch.load(tmp_path / "export" / "model.pth", weights_only=True)
    if change == "missing":
        state.pop("ctc.ctc_lo.bias")
    elif change == "extra":
        state["head.weight"] = torch.zeros(1)
    else:
        state["ctc.ctc_lo.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "export" / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth: does not fit its configuration: 1 .*(ctc_lo|head)"):
        load_exported(tmp_path / "export")


def test_a_configuration_of_something_else_is_refused(trained, tmp_path):
    export(trained, tmp_path / "export", nbest=1)
    (tmp_path / "export" / "config.yaml").write_text("max_epoch: 3\n")
    with pytest.raises(
        UserError, match=r"config\.yaml: is no recogniser's, it lacks token_list, encoder_conf"
    ):
        load_exported(tmp_path / "export")


def test_an_export_that_is_there_is_left_alone(trained, tmp_path, capsys):
    """Several systems ask for that of their starting model, and some may be reading it."""
    exp, out = tmp_path / "exp", tmp_path / "export"
    shutil.copytree(trained, exp)

    def written(*options: str) -> bool:
        before = (out / "model.pth").stat().st_ino if out.exists() else None
        assert export_model.main([f"--exp_dir={exp}", f"--out_dir={out}", *options]) == 0
        return (out / "model.pth").stat().st_ino != before

    assert written("--nbest=2") and not written("--nbest=2")
    assert "is there, of this training" in capsys.readouterr().out
    assert written("--nbest=1")
    assert written("--nbest=1", "--force=true") and not written("--nbest=1")
    summary = json.loads((exp / "train_summary.json").read_text())
    (exp / "train_summary.json").write_text(json.dumps(summary | {"seconds": 1.0}))  # trained again
    assert written("--nbest=1")
    (out / "export.json").write_text("{")
    assert written("--nbest=1") and not written("--nbest=1")
    (exp / "train_summary.json").unlink()
    assert export_model.main([f"--exp_dir={exp}", f"--out_dir={out}"]) == 1
    assert "has not finished" in capsys.readouterr().err
