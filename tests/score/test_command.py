"""`bin.score`: counts, files and messages."""

import json
import subprocess
import sys

import pytest

from espnet_ext.bin.score import main
from espnet_ext.score.alignment import alignment_lines


@pytest.fixture
def score(tmp_path, capsys):
    """A function that scores two texts: exit status, what was printed, result.json."""

    def run(ref: str | bytes, hyp: str | bytes):
        for name, text in (("ref", ref), ("hyp", hyp)):
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        paths = {"--ref": tmp_path / "ref", "--hyp": tmp_path / "hyp", "--out_dir": tmp_path / "out"}
        status = main([str(word) for pair in paths.items() for word in pair])
        printed = capsys.readouterr()
        result = tmp_path / "out" / "result.json"
        return status, printed.out + printed.err, json.loads(result.read_text()) if result.exists() else None

    return run


def test_counts(score, tmp_path):
    status, printed, result = score(
        "a the cat sat\nb \nc größe 語 x\n", "a the bat sat on\nb noise\nc größe x\n"
    )
    assert status == 0
    words = {"substitutions": 1, "deletions": 1, "insertions": 2, "hits": 4, "reference": 6, "errors": 4}
    assert result["words"] == {**words, "rate": pytest.approx(66.6667)}
    assert result["characters"]["reference"] == 20
    assert (result["wer"], result["cer"], result["ser"]) == (pytest.approx(66.6667), 55.0, 100.0)
    assert (result["sentences"], result["sentence_errors"]) == (3, 3)
    assert "WER 66.67 % (1 S, 1 D, 2 I of 6 words)" in printed  # no interval of three sentences
    assert (tmp_path / "out" / "alignment.txt").read_text(encoding="utf-8").splitlines()[-3:] == [
        "REF: größe 語 x",
        "HYP: größe ** x",
        "           D",
    ]


def test_a_full_disk_leaves_no_rates_of_an_older_text(score, tmp_path, full_disk):
    assert score("a x\n", "a x\n")[2]["wer"] == 0.0
    (tmp_path / "longer").write_text("a " + "y " * 100 + "\n")
    words = ["--ref", tmp_path / "longer", "--hyp", tmp_path / "ref", "--out_dir", tmp_path / "out"]
    with full_disk(300):
        assert main([*map(str, words)]) == 1
    assert not (tmp_path / "out" / "result.json").exists()
    assert score("a x\n", "a y\n")[2]["wer"] == 100.0


def test_perfect_and_empty(score):
    assert score("a x\nb\n", "a x\nb\n")[2]["wer"] == 0.0
    assert score("a\nb\n", "a\nb \n")[2]["wer"] == 0.0
    status, printed, result = score("a\n", "a x y\n")
    assert status == 0 and result["wer"] is None and "undefined (empty references)" in printed


def test_white_space_is_no_error(score):
    assert score("a x  y\n", "a x\u00a0y \n")[2]["words"]["errors"] == 0


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        (
            "a x\nb y\n",
            "a x\n",
            "hyp: 1 of the 2 utterances of {}/ref are missing: 'b'. The first ({}/ref:2) was not",
        ),
        ("a x\n", "a x\nb y\n", "ref: 1 of the 2 utterances of {}/hyp are missing: 'b'"),
        ("a x\n", "a x\na y\n", "hyp:2: id 'a' occurs already in {}/hyp:1"),
        ("a x\n", b"a \xff\n", "hyp:1: not UTF-8"),
        ("a x\n", "", "hyp: the file is empty"),
        ("b x\na x\n", "a x\nb x\n", "ref:2: 'a' stands after 'b'"),
    ],
)
def test_bad_input_is_named(score, tmp_path, ref, hyp, message):
    status, printed, result = score(ref, hyp)
    assert status == 1 and result is None
    assert f"{tmp_path}/{message.replace('{}', str(tmp_path))}" in printed


def test_many_missing_utterances_are_counted(score):
    ref = "".join(f"utt{index:02} x\n" for index in range(20))
    _, printed, _ = score(ref, "utt00 x\n")
    assert "19 of the 20" in printed and "and 14 more" in printed


def test_frequent_confusions_stand_first():
    references, hypotheses = ["the cat"] * 3 + ["a"], ["the cut", "the cut", "cat", "a b"]
    names = ["1", "2", "3", "4"]
    sides = ([each.split() for each in side] for side in (references, hypotheses))
    lines = list(alignment_lines(names, *sides))
    assert lines[1:4] == ["     2  cat -> cut", "     1  * -> b", "     1  the -> *"]
    assert "1 (1 S; 2 words)" in lines and "4 (1 I; 1 words)" in lines


def test_starts_without_torch():
    code = (
        "import sys, espnet_ext.bin.score; sys.exit(bool({'torch', 'espnet2', 'espnet'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
