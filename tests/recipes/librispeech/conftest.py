"""A LibriSpeech of a few noise bursts, and the recipe's local/ as modules."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

SPEAKERS = """\
; comment
;ID  |SEX| SUBSET           |MINUTES| NAME
1    | F | train-clean-100  | 1.00  | A | B
2    | M | dev-clean        | 1.00  | C
3    | F | test-clean       | 1.00  | D
"""


@pytest.fixture(scope="session")
def recipe_dir(repo_root) -> Path:
    """The recipe's folder."""
    return repo_root / "egs2/librispeech_100/asr1"


@pytest.fixture
def local(recipe_dir, monkeypatch):
    """The recipe's local/ can be imported."""
    monkeypatch.syspath_prepend(str(recipe_dir / "local"))


@pytest.fixture
def add_utterance(tmp_path):
    """Function: a second of noise as a FLAC file of the corpus, and its line in its chapter's transcript."""

    def add(subset: str, name: str, words: str) -> None:
        reader, chapter, _ = name.split("-")
        folder = tmp_path / "it's a copy/LibriSpeech" / subset / reader / chapter
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(words)).normal(0, 0.1, 16000)
        soundfile.write(folder / f"{name}.flac", noise, 16000)
        with open(folder / f"{reader}-{chapter}.trans.txt", "a", encoding="utf-8") as handle:
            handle.write(f"{name} {words}\n")

    return add


@pytest.fixture
def corpus(add_utterance, tmp_path) -> Path:
    """A LibriSpeech with three subsets, in a path with a space and a quote."""
    for subset, reader in (("train-clean-100", 1), ("dev-clean", 2), ("test-clean", 3)):
        for chapter in (10, 9):
            for number in (0, 1):
                add_utterance(subset, f"{reader}-{chapter}-{number:04d}", "IT'S " + "A " * number + "WORD")
    corpus = tmp_path / "it's a copy/LibriSpeech"
    (corpus / "SPEAKERS.TXT").write_text(SPEAKERS)
    return corpus
