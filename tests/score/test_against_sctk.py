"""Counts against sclite's, the matched-pair test against sc_stats'."""

import random
import re
import shutil
import subprocess

import numpy as np
import pytest

from espnet_ext.score.alignment import align, operations
from espnet_ext.score.errors import count
from espnet_ext.score.mapsswe import mapsswe

WORDS = [f"word{index}" for index in range(60)]

pytestmark = pytest.mark.skipif(
    not shutil.which("sctk"), reason="sctk is not installed: `apt-get install sctk`"
)


def run(folder, *command, stdin=None):
    done = subprocess.run(
        ["sctk", *command], cwd=folder, capture_output=True, text=True, check=True, input=stdin
    )
    return done.stdout


def write(folder, name, sentences):
    lines = [
        f"{' '.join(sentence)} (spk{index % 7}-{index:05d})\n" for index, sentence in enumerate(sentences)
    ]
    (folder / name).write_text("".join(lines), encoding="utf-8")


def sclite(folder, references, hypotheses):
    """Per speaker: sentences, words, correct, S, D, I, errors, wrong sentences; the last row is the sum."""
    write(folder, "ref", references)
    write(folder, "hyp", hypotheses)
    out = run(
        folder, "sclite", "-s", "-r", "ref", "trn", "-h", "hyp", "trn", "-i", "spu_id", "-o", "rsum", "stdout"
    )
    rows = {}
    for line in out.splitlines():
        cells = re.findall(r"[\w.]+", line.replace("|", " "))
        if len(cells) == 9 and (cells[0] == "Sum" or cells[0].startswith("spk")):
            rows[cells[0]] = list(map(int, cells[1:]))
    return rows


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


def sentences(seed, number=400):
    generator = random.Random(seed)
    return [generator.choices(WORDS, k=generator.randrange(1, 20)) for _ in range(number)], generator


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.9, 2.5])
def test_every_count_equals_sclites(tmp_path, rate):
    references, generator = sentences(str(rate))
    hypotheses = [heard(sentence, generator, rate) for sentence in references]
    ours = count(references, hypotheses)
    theirs = sclite(tmp_path, references, hypotheses)
    assert len(theirs) == 8 and ours[:, 1:].sum() > 0
    for name, rows in theirs.items():
        mine = ours if name == "Sum" else ours[int(name[3:]) :: 7]
        ref, sub, dele, ins = map(int, mine.sum(0))
        wrong = int((mine[:, 1:].sum(1) > 0).sum())
        assert [len(mine), ref, ref - sub - dele, sub, dele, ins, sub + dele + ins, wrong] == rows


def test_totals_of_real_transcripts_equal_sclites(tmp_path, librispeech_mini):
    """Long sentences and a real vocabulary; a word is heard as another of the corpus, or torn in two."""
    lines = [
        line
        for path in sorted(librispeech_mini.rglob("*.trans.txt"))
        for line in path.read_text().splitlines()
    ]
    references = [line.split()[1:] for line in lines]
    vocabulary, generator = sorted({word for each in references for word in each}), random.Random(2)
    hypotheses = []
    for each in references:
        heard = []
        for word in each:
            dice = generator.random()
            torn = [word[: len(word) // 2 + 1], word[len(word) // 2 :]]
            options = [[], [generator.choice(vocabulary)], torn, ["THE", word]]
            heard += options[int(dice * 40)] if dice < 0.1 else [word]
        hypotheses.append(heard)
    reference, *kinds = count(references, hypotheses).sum(0).tolist()
    assert len(lines) > 1000
    _, words, _, *theirs, _, _ = sclite(tmp_path, references, hypotheses)["Sum"]
    assert [reference, *kinds] == [words, *theirs]


def test_characters_equal_sclites(tmp_path):
    """Characters with spaces among them, as ESPnet's scoring stage writes them for sclite."""
    generator = random.Random(3)
    references = [
        "".join(generator.choices("abcde ", k=generator.randrange(1, 40))).strip() or "a" for _ in range(200)
    ]
    hypotheses = [
        "".join(c for c in s if generator.random() > 0.1) + generator.choice(["", "ab", " e"])
        for s in references
    ]
    references += ["größe", "one two three", ""]
    hypotheses += ["grosse", "one to tree", "uh"]
    ours = count(references, hypotheses).sum(0)
    spelled = [
        [[("<sp>" if c == " " else c) for c in each] for each in side] for side in (references, hypotheses)
    ]
    _, letters, _, *kinds, _, _ = sclite(tmp_path, *spelled)["Sum"]
    assert [letters, *kinds] == ours.tolist()


def test_alignments_have_the_counts(tmp_path):
    references, generator = sentences("alignments")
    hypotheses = [heard(sentence, generator, 1.5) for sentence in references]
    found = [operations(align(*pair)) for pair in zip(references, hypotheses, strict=True)]
    kinds = np.array([[each.count(kind) for kind in "SDI"] for each in found])
    counts = count(references, hypotheses)
    assert (kinds.sum(1) == counts[:, 1:].sum(1)).all()
    assert kinds.sum(0).tolist() == counts[:, 1:].sum(0).tolist()


@pytest.mark.parametrize(("one", "other"), [(0.1, 0.12), (0.3, 0.5), (0.6, 0.4)])
def test_mapsswe_equals_sc_stats(tmp_path, one, other):
    references, generator = sentences(f"{one} {other}")
    systems = [[heard(sentence, generator, rate) for sentence in references] for rate in (one, other)]
    write(tmp_path, "ref", references)
    sgml = ""
    for name, hypotheses in zip("ab", systems, strict=True):
        write(tmp_path, name, hypotheses)
        run(
            tmp_path,
            "sclite",
            "-s",
            "-r",
            "ref",
            "trn",
            "-h",
            name,
            "trn",
            name,
            "-i",
            "spu_id",
            "-o",
            "sgml",
            "-n",
            name,
        )
        sgml += (tmp_path / f"{name}.sgml").read_text()
    run(tmp_path, "sc_stats", "-p", "-t", "mapsswe", "-v", stdin=sgml)
    out = (tmp_path / "Ensemble.stats.mapsswe").read_text()
    line = next(line for line in out.splitlines() if "MTCH_PR_RESULTS" in line)
    number = r"\s*(-?[\d.]+)\)"
    theirs = [
        float(re.search(rf"{name}:{number}", line)[1]) for name in ("# segs", "mean", "std dev", "Z Stat")
    ]
    ours = mapsswe(*([operations(align(*p)) for p in zip(references, s, strict=True)] for s in systems))
    assert [ours.segments, round(ours.mean, 3), round(ours.deviation, 3), round(ours.z, 3)] == pytest.approx(
        theirs, abs=1.01e-3
    )
    assert ("Stat Diff: Yes" in line) == (ours.p < 0.05)
