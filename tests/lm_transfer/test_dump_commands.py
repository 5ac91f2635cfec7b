"""Targets by their command."""

import pytest
import torch

from espnet_ext.bin import lm_targets
from espnet_ext.lm_transfer.store import TargetStore


def test_options_of_the_dump_reach_the_language_model(toy_training, dump, bert_folder, tmp_path, write_text):
    """Layers and case are part of what the targets are; further sets have targets too."""
    found = set()
    for options in ([], ["--layers=mean:2"], ["--case=keep"]):
        assert dump(bert_folder, *options) == 0
        teacher = TargetStore(tmp_path / "targets").settings["teacher"]
        found.add((teacher["layers"], teacher["case"]))
    assert found == {("last", "lower"), ("mean:2", "lower"), ("last", "keep")}
    assert dump(bert_folder, f"--other_text={write_text('other', {'x': 'edcba edcba'})}") == 0
    assert "edcba edcba" in TargetStore(tmp_path / "targets")


def test_dump_refuses_what_it_cannot_do(toy_training, dump, bert_folder, tmp_path, capsys):
    for option, message in (
        ("--batch_size=0", "--batch_size 0: expected 1 or more"),
        ("--ngpu=1", "no GPU is"),
    ):
        if option != "--ngpu=1" or not torch.cuda.is_available():
            assert dump(bert_folder, option) == 1
            assert message in capsys.readouterr().err
    assert not (tmp_path / "targets").exists()
    assert dump(bert_folder, "--ngpu=1", "--dry_run") == 0  # on a machine that only submits
    assert "nothing is written" in capsys.readouterr().out and not (tmp_path / "targets").exists()
    with pytest.raises(SystemExit):
        lm_targets.main(["--teacher=x", "--token_list=y"])


def test_a_look_at_the_language_model_needs_no_transcripts(toy_training, bert_folder, tmp_path, capsys):
    """Stage 5, with a model that is there or with the configuration of one that stage 6 will train."""
    toy_training("attention", "exp")
    words = ["--check", f"--token_list={tmp_path / 'tokens.txt'}", "--token_type=char"]
    assert lm_targets.main([f"--teacher={bert_folder}", *words]) == 0
    assert "embeddings of 8 numbers" in capsys.readouterr().out
    (tmp_path / "lm.yaml").write_text("blocks: 2\nsize: 16\n")
    words += ["--teacher=exp/lm", f"--lm_config={tmp_path / 'lm.yaml'}"]
    assert lm_targets.main([*words, "--layers=mean:2"]) == 0
    assert lm_targets.main([*words, "--layers=mean:3"]) == 1
    assert "--layers mean:3: the LM has only 2 layers" in capsys.readouterr().err


def test_dump_says_what_is_wrong(toy_training, dump, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert dump(tmp_path / "empty") == 1
    assert "no configuration in this folder" in capsys.readouterr().err
    assert dump(tmp_path / "empty", "--layers=first") == 1
    assert "--layers first: expected last, mean:K" in capsys.readouterr().err
