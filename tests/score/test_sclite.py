"""Totals against sclite's."""

import random
import re
import shutil
import subprocess

import pytest

from espnet_ext.score.errors import count_errors

WORDS = [f"word{index}" for index in range(300)]


def sclite(folder, references, hypotheses):
    """Sentences, words, errors and wrong sentences as `sctk sclite` counts them."""
    for name, sentences in (("ref", references), ("hyp", hypotheses)):
        lines = [f"{sentence} (speaker-{index:05d})\n" for index, sentence in enumerate(sentences)]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    command = ["sctk", "sclite", "-r", "ref", "trn", "-h", "hyp", "trn", "-i", "rm", "-o", "rsum", "stdout"]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    total = next(line for line in out.splitlines() if "Sum" in line)
    sentences, words, _, _, _, _, errors, wrong = map(int, re.findall(r"\d+", total))
    return sentences, words, errors, wrong


def heard(sentence, generator, rate):
    """The sentence with substitutions, deletions and insertions, a third of ``rate`` each."""
    found = []
    for word in sentence:
        dice = generator.random() / rate * 3
        if dice < 1:
            continue
        found.append(generator.choice(WORDS) if dice < 2 else word)
        if 2 <= dice < 3:
            found.append(generator.choice(WORDS))
    return found


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_totals_equal_sclite(tmp_path, rate):
    if not shutil.which("sctk"):
        pytest.skip("sctk is not installed: `apt-get install sctk`")
    generator = random.Random(str(rate))
    references = [generator.choices(WORDS, k=generator.randrange(1, 20)) for _ in range(400)]
    hypotheses = [heard(sentence, generator, rate) for sentence in references]
    pair = [" ".join(each) for each in references], [" ".join(each) for each in hypotheses]
    score = count_errors(*pair)
    ours = score.sentences, score.words.reference, score.words.errors, score.sentence_errors
    assert ours == sclite(tmp_path, *pair)
    assert score.words.errors > 0


def test_characters_equal_sclite(tmp_path):
    """Characters with spaces among them, as ESPnet's scoring stage writes them for sclite."""
    if not shutil.which("sctk"):
        pytest.skip("sctk is not installed: `apt-get install sctk`")
    references = ["the cat sat", "größe", "one two three", ""]
    hypotheses = ["the cat sat on", "grosse", "one to tree", "uh"]
    score = count_errors(references, hypotheses)
    spelled = [
        [" ".join("<space>" if letter == " " else letter for letter in sentence) for sentence in side]
        for side in (references, hypotheses)
    ]
    _, characters, errors, _ = sclite(tmp_path, *spelled)
    assert (score.characters.reference, score.characters.errors) == (characters, errors)
