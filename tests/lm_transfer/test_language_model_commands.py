"""The small masked language model by its command, and what it teaches."""

import numpy as np
import pytest
import torch

from espnet_ext.bin import lm_train
from espnet_ext.errors import UserError
from tests.toy import history


@pytest.fixture
def sentences(write_text):
    """Sentences in which every letter follows from its neighbours: pieces of "abcdeabcde..."."""
    rows = {f"s{i:03d}": ("abcde" * 3)[i % 5 : i % 5 + 4 + i % 4] for i in range(60)}
    return write_text("lm/train", rows), write_text("lm/dev", {f"v{i}": rows[f"s{i:03d}"] for i in range(30)})


@pytest.fixture
def train_lm(tmp_path, sentences, tokenizer):
    """Function: options → exit status of `lm_train` into the folder `lm_exp`."""

    def run(*options: str) -> int:
        return lm_train.main(
            [
                f"--output_dir={tmp_path / 'lm_exp'}",
                f"--text={sentences[0]}",
                f"--valid_text={sentences[1]}",
                f"--token_list={tmp_path / 'tokens.txt'}",
                "--token_type=char",
                "--size=16",
                "--heads=2",
                "--blocks=1",
                "--tokens_per_step=200",
                "--warmup_steps=5",
                *options,
            ]
        )

    return run


@pytest.mark.slow
def test_language_model_learns_and_teaches(train_lm, tmp_path, tokenizer):
    """The small LM guesses masked letters from both sides; its folder is a teacher of its own tokens
    alone.
    """
    from espnet_ext.lm_transfer.teachers import load_teacher

    size = ["--size=32", "--blocks=2"]
    assert train_lm("--max_epoch=60", "--lr=0.005", "--dropout_rate=0", *size) == 0
    rows = history(tmp_path / "lm_exp")
    assert rows[-1]["valid_acc"] > 0.6 and rows[-1]["valid_loss"] < 0.25 * rows[0]["valid_loss"]
    teacher = load_teacher(str(tmp_path / "lm_exp"), tokenizer)
    found = teacher.embed([teacher.split("abab").ids, teacher.split("cd").ids])
    assert [each.shape for each in found] == [(5, 32), (3, 32)] and not teacher.model.training
    np.testing.assert_allclose(found[1], teacher.embed([teacher.split("cd").ids])[0], atol=1e-5)
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\na\n<sos/eos>\n")
    with pytest.raises(UserError, match="trained with another token list"):
        load_teacher(str(tmp_path / "lm_exp"), type(tokenizer)(tmp_path / "tokens.txt", "char"))


def test_language_model_goes_on_where_it_was(train_lm, tmp_path):
    """Stopped after an epoch and run again, it ends with the same numbers."""
    assert train_lm("--max_epoch=3") == 0
    whole = torch.load(tmp_path / "lm_exp" / "lm.pth")
    (tmp_path / "lm_exp").rename(tmp_path / "whole")
    train_lm("--max_epoch=3", "--checkpoint_minutes=0")
    checkpoint = tmp_path / "lm_exp" / "checkpoint.pth"
    assert checkpoint.exists()
    for name in ("lm.pth", "lm.yaml", "train_summary.json"):
        (tmp_path / "lm_exp" / name).unlink()
    assert train_lm("--max_epoch=3") == 0
    again = torch.load(tmp_path / "lm_exp" / "lm.pth")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_unknown_options_of_the_language_model(train_lm, tmp_path, capsys):
    (tmp_path / "lm.yaml").write_text("sizes: 3\n")
    assert train_lm(f"--config={tmp_path / 'lm.yaml'}") == 1
    assert "unknown options sizes" in capsys.readouterr().err
    assert train_lm("--max_epo=3") == 1
    wrong = "error: unrecognized arguments: --max_epo=3; did you mean --max_epoch?\n"
    assert capsys.readouterr().err == wrong
    (tmp_path / "lm.yaml").write_text("lr: 0.1\nmax_epoch: 3\nlr: 0.2\n")
    assert train_lm(f"--config={tmp_path / 'lm.yaml'}") == 1
    assert "lm.yaml:3: lr stands twice in one mapping, first in line 1" in capsys.readouterr().err
    assert train_lm("--size=15") == 1
    assert "--size 15: expected an even multiple of --heads 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("log_interval: 0", "--log_interval 0: expected at least 1"),
        ("max_epoch: 1.5", "--max_epoch 1.5: expected a whole number"),
        ("lr: -0.1", "--lr -0.1: expected at least 0"),
        ("grad_clip: -2", "--grad_clip -2: expected a number of at least 0, or -1"),
        ("dropout_rate: 1", "--dropout_rate 1: expected a part from 0 to below 1"),
        ("resume: maybe", "--resume maybe: expected true or false"),
    ],
)
def test_values_that_make_no_sense(train_lm, tmp_path, capsys, text, message):
    """Told with the file, if they stand in one."""
    (tmp_path / "lm.yaml").write_text(text)
    assert train_lm(f"--config={tmp_path / 'lm.yaml'}") == 1
    where = "" if "dropout_rate" in text else f"{tmp_path / 'lm.yaml'}: "
    assert capsys.readouterr().err.startswith(f"error: {where}{message}")
    assert train_lm("--heads=0") == 1
    assert capsys.readouterr().err == "error: --heads 0: expected at least 1\n"


def test_true_in_a_yaml_is_a_boolean(train_lm, tmp_path):
    """`resume: true` was none of the words, and began anew."""
    assert train_lm("--max_epoch=1") == 0
    (tmp_path / "lm_exp" / "train_summary.json").unlink()
    (tmp_path / "lm.yaml").write_text("resume: true\nmax_epoch: 2\n")
    before = history(tmp_path / "lm_exp")
    assert train_lm(f"--config={tmp_path / 'lm.yaml'}") == 0
    assert history(tmp_path / "lm_exp")[0] == before[0]
