"""A packed model is loaded by stock ESPnet in a process where this package cannot be imported."""

import json
import subprocess
import sys
import zipfile

import numpy
import pytest
import sentencepiece
import soundfile
import yaml

from espnet_ext.bin.decode import main as decode
from espnet_ext.bin.pack import main as pack

STOCK = """
import json, sys

class NotHere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "espnet_ext":
            raise ImportError("espnet_ext is not installed here")

sys.meta_path.insert(0, NotHere())
import logging
import soundfile, torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

torch.set_num_threads(1)
options = unpack(sys.argv[1], sys.argv[2])
recogniser = Speech2Text.from_pretrained(**options, beam_size=3, ctc_weight=0.3, maxlenratio=-8)
text, tokens, *_ = recogniser(soundfile.read(sys.argv[3], dtype="float32")[0])[0]
print(json.dumps([text, tokens]))
"""


@pytest.fixture
def bpe_export(make_export, tmp_path):
    """An exported model with everything that needs a file of its own: SentencePiece and statistics."""
    words = tmp_path / "words"
    words.write_text("".join(f"{a}{b}{c}a tele{b}{c}\n" for a in "abc" for b in "def" for c in "ghi"))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(tmp_path / "bpe"), vocab_size=24, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    names = [pieces.id_to_piece(index) for index in range(3, pieces.vocab_size())]
    generator = numpy.random.default_rng(0)
    mean, count = generator.normal(size=20), 100
    stats = tmp_path / "feats_stats.npz"
    numpy.savez(stats, count=count, sum=mean * count, sum_square=(mean**2 + 1) * count)
    folder = make_export(
        ["<blank>", "<unk>", *names, "<sos/eos>"],
        token_type="bpe",
        bpemodel="bpe.model",
        normalize="global_mvn",
        normalize_conf={"stats_file": str(stats)},
    )
    (tmp_path / "bpe.model").rename(folder / "bpe.model")
    stats.rename(folder / "feats_stats.npz")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["normalize_conf"] = {"stats_file": "feats_stats.npz"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.slow
def test_stock_espnet_reads_the_archive(bpe_export, tmp_path, monkeypatch):
    archive = tmp_path / "a b" / "model.zip"
    monkeypatch.chdir(tmp_path)
    assert pack(["--model_dir", bpe_export.name, "--out", str(archive.relative_to(tmp_path))]) == 0
    assert sorted(zipfile.ZipFile(archive).namelist()) == sorted(
        ["meta.yaml", "config.yaml", "model.pth", "feats_stats.npz", "bpe.model"]
    )
    data = tmp_path / "data"
    data.mkdir()
    sound = data / "one.wav"
    soundfile.write(sound, numpy.random.default_rng(0).normal(0, 0.1, 16000).astype("float32"), 16000)
    (data / "wav.scp").write_text(f"one {sound}\n")
    (data / "utt2num_samples").write_text("one 16000\n")
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"beam_size": 3, "maxlenratio": -8}))
    arguments = {"--model_dir": bpe_export, "--data_dir": data, "--config": "decode.yaml", "--out_dir": "out"}
    assert decode([str(word) for pair in arguments.items() for word in pair]) == 0
    ours = (tmp_path / "out" / "text").read_text().removeprefix("one").strip()
    tokens = (tmp_path / "out" / "token").read_text().removeprefix("one").split()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-I", "-c", STOCK, archive, elsewhere / "unpacked", sound]
    # The model's own folder is gone: what the archive lacks cannot be found by accident.
    bpe_export.rename(tmp_path / "gone")
    done = subprocess.run(list(map(str, command)), cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert [ours, tokens] == theirs and tokens


def test_links_are_followed(exported, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    assert pack(["--model_dir", str(folder), "--out", str(tmp_path / "model.zip")]) == 0
    assert set(zipfile.ZipFile(tmp_path / "model.zip").namelist()) == {
        "meta.yaml",
        "config.yaml",
        "model.pth",
    }


def test_absolute_paths_are_refused(exported, tmp_path, capsys):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "model.pth").symlink_to(exported / "model.pth")
    config = yaml.safe_load((exported / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "bpemodel": str(folder / "model.pth")}))
    assert pack(["--model_dir", str(folder), "--out", str(tmp_path / "model.zip")]) == 1
    assert "run stage 9 (export) again" in capsys.readouterr().err
    assert not (tmp_path / "model.zip").exists()


def test_other_names_and_missing_models_are_refused(exported, tmp_path, capsys):
    assert pack(["--model_dir", str(exported), "--out", str(tmp_path / "model.rar")]) == 1
    assert pack(["--model_dir", str(tmp_path), "--out", str(tmp_path / "model.zip")]) == 1
    printed = capsys.readouterr().err
    assert ".zip" in printed and "run stage 9 (export) first" in printed
