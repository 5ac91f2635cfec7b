"""Data preparation of LibriSpeech: what it writes, and every message about a copy that is not right."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from espnet_ext.data.kaldi import DataDir

ALL = ["train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"]


@pytest.fixture
def prepare(local, tmp_path, monkeypatch, capsys):
    """Function: prepare the corpus in ``given``; returns the exit status, and what was printed."""
    import prepare as module

    monkeypatch.chdir(tmp_path)

    def run(given, *options: str, subsets=ALL) -> tuple[int, str]:
        arguments = ["--data_dir", str(given), "--out_dir", "data", "--download_dir", "downloads"]
        need = ["--need", "train_clean_100", "dev", "--url", "http://127.0.0.1:9/"]
        code = module.main([*arguments, *need, "--subsets", *subsets, *options])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_data_directories(prepare, corpus):
    code, printed = prepare(corpus.parent)
    assert code == 0
    assert sorted(os.listdir("data")) == ["dev", "dev_clean", "test_clean", "train_clean_100"]
    assert f"{corpus}/test-other is not there: this subset is left out" in printed
    data = DataDir("data/train_clean_100", need_text=True)
    assert list(data) == ["1-10-0000", "1-10-0001", "1-9-0000", "1-9-0001"]
    assert data.text.rows["1-9-0001"] == "IT'S A WORD"
    assert data.utt2spk.rows["1-9-0001"] == "1-9"
    assert data.wav.rows["1-9-0001"] == f"{corpus}/train-clean-100/1/9/1-9-0001.flac"
    assert Path("data/dev/spk2gender").read_text() == "2-10 m\n2-9 m\n"


def test_the_subsets_folder_itself_is_understood(prepare, corpus):
    assert prepare(corpus)[0] == 0


def test_relative_paths_stay_relative(prepare, corpus):
    code, _ = prepare(os.path.relpath(corpus))
    assert code == 0
    DataDir("data/dev")
    assert Path("data/dev/wav.scp").read_text().startswith("2-10-0000 it's a copy/LibriSpeech/dev-clean/2/")


def test_dev_is_all_that_there_is_of_dev(prepare, corpus, add_utterance):
    add_utterance("dev-other", "7-8-0000", "ONE MORE")
    assert prepare(corpus)[0] == 0
    assert len(DataDir("data/dev")) == 5
    assert prepare(corpus, subsets=["train-clean-100", "dev-clean"])[0] == 0
    assert len(DataDir("data/dev")) == 4


def test_what_another_copy_left_is_removed(prepare, corpus):
    prepare(corpus)
    shutil.rmtree(corpus / "test-clean")
    code, printed = prepare(corpus)
    assert code == 0 and "data/test_clean: removed" in printed
    assert sorted(os.listdir("data")) == ["dev", "dev_clean", "train_clean_100"]


def test_without_speakers(prepare, corpus):
    (corpus / "SPEAKERS.TXT").unlink()
    code, printed = prepare(corpus)
    assert code == 0 and "SPEAKERS.TXT is not there: no spk2gender" in printed
    assert not Path("data/dev/spk2gender").exists()


def break_not_utf8(corpus: Path) -> None:
    path = corpus / "dev-clean/2/9/2-9.trans.txt"
    path.write_bytes(path.read_bytes() + b"2-9-0002 CAF\xc9\n")


def transcript(old: str, new: str):
    """Breaks a transcript of dev-clean by replacing ``old``."""

    def change(corpus: Path) -> None:
        path = corpus / "dev-clean/2/9/2-9.trans.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def remove(name: str):
    return lambda corpus: (corpus / name).unlink()


def without(subset: str):
    return lambda corpus: shutil.rmtree(corpus / subset)


def extra_audio(corpus: Path) -> None:
    shutil.copy(corpus / "dev-clean/2/9/2-9-0000.flac", corpus / "dev-clean/2/9/2-9-0007.flac")


def wrong_speakers(corpus: Path) -> None:
    (corpus / "SPEAKERS.TXT").write_text("; ok\n12 | X | dev-clean | 8 | name\n")


def same_in_both(corpus: Path) -> None:
    shutil.copytree(corpus / "dev-clean/2", corpus / "dev-other/2")


@pytest.mark.parametrize(
    "change, message",
    [
        (break_not_utf8, r"dev-clean/2/9/2-9\.trans\.txt:3: not UTF-8 \(byte 0xc9"),
        (transcript("2-9-0001", "2-9-0000"), r"2-9\.trans\.txt:2: 2-9-0000 occurs already in line 1"),
        (
            transcript("2-9-0001", "2-8-0001"),
            r"2-9\.trans\.txt:2: expected '2-9-<number> .* found .2-8-0001",
        ),
        (transcript("2-9-0000 IT'S WORD", ""), r"2-9\.trans\.txt:1: expected .*, found ''"),
        (transcript("2-9-0001 IT'S A WORD", "2-9-0001"), r"2-9\.trans\.txt:2: 2-9-0001 has no words"),
        (remove("dev-clean/2/9/2-9-0001.flac"), r"2-9\.trans\.txt:2: .*/2-9-0001\.flac does not exist"),
        (remove("dev-clean/2/9/2-9.trans.txt"), r"2-9\.trans\.txt: not there, but 2 audio files are"),
        (extra_audio, r"2-9-0007\.flac: no transcript in .*2-9\.trans\.txt"),
        (wrong_speakers, r"SPEAKERS\.TXT:2: expected 'reader \| F or M \|"),
        (same_in_both, r"are the same utterance"),
        (without("train-clean-100"), r"no data for the set 'train_clean_100'.* dev-clean"),
        (without("dev-clean"), r"no data for the set 'dev'"),
    ],
)
def test_wrong_copies(prepare, corpus, change, message):
    change(corpus)
    code, printed = prepare(corpus)
    assert code == 1
    assert re.search(message, printed), printed
    assert printed.count("error: ") == 1
    assert not Path("data").exists()


def test_empty_subset(prepare, corpus):
    shutil.rmtree(corpus / "dev-clean/2")
    code, printed = prepare(corpus)
    assert code == 1 and "dev-clean: no utterances; expected" in printed


def test_wrong_folder(prepare, tmp_path):
    code, printed = prepare(tmp_path / "nowhere")
    assert code == 1 and "nowhere: no such folder" in printed
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README").touch()
    code, printed = prepare(tmp_path / "other")
    assert code == 1 and "expected the folder LibriSpeech in it" in printed and "found README" in printed


def test_unknown_subset(prepare, corpus):
    code, printed = prepare(corpus, subsets=["train_clean_100"])
    assert code == 1 and "--subsets train_clean_100: LibriSpeech has the subsets train-clean-100," in printed


def test_small_encoder_is_that_of_synth(repo_root, recipe_dir):
    small, synth = (
        yaml.safe_load((folder / "pretrain.yaml").read_text())
        for folder in (recipe_dir / "conf/small", repo_root / "egs2/synth/asr1/conf")
    )
    for part in ("frontend", "frontend_conf", "normalize", "encoder", "encoder_conf"):
        assert small[part] == synth[part], part


def test_switch_small(run_recipe, recipe_dir):
    run = recipe_dir / "run.sh"
    assert len(run.read_text().splitlines()) <= 60
    for options in (["--small"], ["--seed", "2", "--small=true", "--nj", "1"]):
        printed = run_recipe(run, "--dry_run", *options)
        assert "--config conf/small/pretrain.yaml" in printed and "unigram200" in printed
        assert "train_clean_100_sp" not in printed
    printed = run_recipe(run, "--dry_run", "--small", "false")
    assert "--config ../../TEMPLATE/asr1/conf/pretrain.yaml" in printed and "unigram2000" in printed
    assert "unigram50/" in run_recipe(run, "--dry_run", "--small", "--nbpe", "50")


def test_links(repo_root, recipe_dir):
    """The recipe is the template plus run.sh, local/ and conf/."""
    links = {path.name for path in recipe_dir.iterdir() if path.is_symlink()}
    assert links == {"asr.sh", "path.sh", "cmd.sh", "db.sh", "stages", "utils"}
    tracked = subprocess.run(
        ["git", "ls-files", "egs2/librispeech_100"], cwd=repo_root, capture_output=True, text=True
    )
    assert not re.search(r"\.(flac|wav|mp3)$", tracked.stdout, re.M)
