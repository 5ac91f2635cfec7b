"""Mistakes in the options of a training: one line each, which names the option."""

import subprocess
import sys

import pytest
import yaml

from espnet_ext.bin.asr_train import main

TAIL = ("--output_dir", "out", "--token_list", "tokens.txt")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--max_epohc", "1"], "unrecognized arguments: --max_epohc 1; did you mean --max_epoch?"),
        (["--max_epoc", "1"], "unrecognized arguments: --max_epoc 1; did you mean --max_epoch?"),
        (["--max_sk=1"], "unrecognized arguments: --max_sk=1; did you mean --max_skipped_steps?"),
        (["--optim_conf", "lr=[1"], "[1 is not YAML: "),
        (["--optim_conf", "lr"], "argument --optim_conf: must be interpreted as dict: but got lr; expected"),
        (["--config"], "argument --config: expected one argument"),
        (["--lambda_d", "3"], "unrecognized arguments: --lambda_d 3"),
        (["--max_epoch", "ten"], "argument --max_epoch: invalid int value: 'ten'"),
    ],
)
def test_wrong_options_are_one_line(capsys, words, message):
    assert main([*TAIL, *words]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1


def test_an_unknown_option_of_a_configuration_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("max_epohc: 3\n")
    assert main(["--config", "a.yaml", *TAIL]) == 1
    printed = capsys.readouterr().err
    assert printed == "error: unrecognized arguments: max_epohc (from a.yaml); did you mean max_epoch?\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: 3\nmax_epoch: 1\nseed: 30\n", "a.yaml:3: seed stands twice in one mapping, first in line 1"),
        ("optim_conf:\n  lr: 1\n  lr: 2\n", "a.yaml:3: lr stands twice in one mapping, first in line 2; "),
        ("max_epoch: [\n", "a.yaml:2: not YAML: "),
        ("- max_epoch\n", "a.yaml: expected a mapping of options, found list"),
        ("", "a.yaml: expected a mapping of options, found NoneType"),
    ],
)
@pytest.mark.parametrize("task", ["asr", "gan"])
def test_a_configuration_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, task, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    assert main(["--task", task, "--config", "a.yaml", *TAIL]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1, printed


@pytest.mark.parametrize(
    "config, message",
    [
        (
            "encoder_conf: {output_sise: 4}",
            "encoder_conf: EBranchformerEncoder has no option 'output_sise'; ",
        ),
        ("decoder_conf: {heads: 4}", "decoder_conf: TransformerDecoder has no option 'heads'; "),
        (
            "encoder_conf: {dropout_rate: 2}",
            "encoder_conf: EBranchformerEncoder refuses a value of its options: ValueError: dropout",
        ),
        (
            "encoder_conf: {attention_heads: 3}",
            "encoder_conf: EBranchformerEncoder refuses a value of its options: AssertionError (in `assert ",
        ),
        (
            "model_conf: {ctc_weight: 2}",
            "model_conf: ESPnetASRModel refuses a value of its options: AssertionError: 2 (in `assert ",
        ),
        (
            "model_conf: {ctc_weight: nan}",
            "model_conf: ESPnetASRModel refuses a value of its options: TypeError: '<=' not supported",
        ),
        (
            "frontend_conf: {n_fft: 0}",
            "frontend_conf: DefaultFrontend refuses a value of its options: ZeroDivisionError: ",
        ),
        ("encoder: conformr", "--encoder must be one of "),
    ],
)
def test_wrong_options_of_modules_are_one_line(tmp_path, monkeypatch, capsys, config, message):
    """What fits another encoder, say, or a slip of the pen: ESPnet ends in a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\na\n<sos/eos>\n")
    options = {"encoder": "e_branchformer", "decoder": "transformer", "token_type": "char"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(options | yaml.safe_load(config)))
    folders = [f"--{split}_{what}_dir=." for split in ("train", "valid") for what in ("data", "stats")]
    assert main(["--config", "a.yaml", *folders, *TAIL]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1, printed


#: A training that stops as asked; a second signal finds it at its very end.
STOPPED = """
import atexit, os, runpy, signal, sys
from espnet_ext import registry

class Task:
    @staticmethod
    def main(cmd, stop):
        os.kill(os.getpid(), signal.SIGUSR1)
        return 75 if stop else 1

for number in (signal.SIGUSR1, signal.SIGTERM):
    atexit.register(os.kill, os.getpid(), number)
registry.load_task = lambda name: Task
sys.argv = ["asr_train", "--task", "gan"]
runpy.run_module("espnet_ext.bin.asr_train", run_name="__main__")
"""


def test_a_signal_at_the_very_end_leaves_the_status():
    assert subprocess.run([sys.executable, "-c", STOPPED], timeout=120).returncode == 75
