"""A language model by its name on the HuggingFace hub, from the cache that a download fills; no network."""

import os
import shutil
import subprocess
import sys

import pytest

from espnet_ext.lm_transfer.teachers import load_teacher

REVISION = "0" * 39 + "1"


@pytest.fixture
def text(write_text):
    """Two transcripts."""
    return write_text("text", {"u1": "abc de", "u2": "e"})


@pytest.fixture
def dump(tmp_path, tokenizer, text):
    """Function: (teacher, folder of the targets) → the finished command, with a cache of its own."""

    def run(teacher, out):
        words = ["--teacher", teacher, "--text", text, "--token_list", tmp_path / "tokens.txt"]
        words += ["--token_type", "char", "--out_dir", tmp_path / out]
        return subprocess.run(
            [sys.executable, "-m", "espnet_ext.bin.lm_targets", *map(str, words)],
            env=os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.slow
def test_a_name_on_the_hub(dump, text, bert_folder, tokenizer, make_store, tmp_path):
    kept = tmp_path / "cache/hub/models--toy--bert"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(REVISION)
    shutil.copytree(bert_folder, kept / "snapshots" / REVISION)
    done = dump("toy/bert", "hub")
    assert done.returncode == 0, done.stderr
    make_store([text], load_teacher(str(bert_folder), tokenizer), folder="folder")
    found, expected = ((tmp_path / out / "targets.f16").read_bytes() for out in ("hub", "folder"))
    assert found == expected and found

    done = dump("toy/bret", "misspelt")
    assert done.returncode == 1 and done.stderr.startswith("error: --teacher toy/bret: "), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "misspelt/targets.f16").exists()
