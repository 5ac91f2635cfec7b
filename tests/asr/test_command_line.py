"""Mistakes in the options of a training: one line each, which names the option."""

import pytest

from espnet_ext.bin.asr_train import main

TAIL = ("--output_dir", "out", "--token_list", "tokens.txt")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--max_epohc", "1"], "unrecognized arguments: --max_epohc 1; did you mean --max_epoch?"),
        (["--lambda_d", "3"], "unrecognized arguments: --lambda_d 3"),
        (["--max_epoch", "ten"], "argument --max_epoch: invalid int value: 'ten'"),
    ],
)
def test_wrong_options_are_one_line(capsys, words, message):
    assert main([*words, *TAIL]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1


def test_an_unknown_option_of_a_configuration_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("max_epohc: 3\n")
    assert main(["--config", "a.yaml", *TAIL]) == 1
    printed = capsys.readouterr().err
    assert printed == "error: unrecognized arguments: max_epohc (from a.yaml); did you mean max_epoch?\n"
