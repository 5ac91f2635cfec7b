"""`bin.report` on folders as the other stages leave them."""

import json
import subprocess
import sys

import pytest

from espnet_ext.bin.report import main

PROVENANCE = {"versions": {"python": "3.11.7", "torch": "2.11.0"}, "commit": "abc", "host": "here"}


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents), encoding="utf-8")


def add_result(expdir, experiment, tag, dataset, wer=None, digest="0", **provenance):
    """A decoded set, scored where ``wer`` is given."""
    folder = expdir / experiment / f"decode_{tag}" / dataset
    decode = {
        "rtf": 0.01234,
        "device": "cpu",
        "threads": 2,
        "jobs": 1,
        "model_sha256": digest,
        "command": f"python -m espnet_ext.bin.decode --out_dir {experiment}/{tag}/{dataset}",
    }
    write(folder / "decode.json", {**decode, **PROVENANCE, **provenance})
    if wer is not None:
        counts = {"substitutions": 3, "deletions": 2, "insertions": 1, "reference": 60}
        rates = {"wer": wer, "cer": wer / 2, "ser": 50.0}
        score = {**rates, "sentences": 12, "words": counts, "normalisation": "white space only"}
        write(folder / "score" / "result.json", score)


@pytest.fixture
def expdir(tmp_path):
    """Two experiments, one of them trained and both decoded."""
    expdir = tmp_path / "exp"
    for experiment, wer in (("pretrain_a", 20.0), ("none_a", 10.0)):
        for dataset in ("test_noisy", "test_clean"):
            add_result(expdir, experiment, "joint", dataset, wer)
    add_result(expdir, "none_a", "ctc", "test_clean", 12.5)
    summary = {
        "epochs": 3,
        "steps": 300,
        "seconds": 754,
        "seed": 1,
        "parameters": 3000000,
        "labelled_batches": 300,
    }
    write(expdir / "none_a" / "train_summary.json", summary)
    write(expdir / "none_a" / "export" / "export.json", {"epochs": [2, 3]})
    history = "epoch,step,train_loss,valid_loss,valid_acc\n1,100,4,5,\n2,200,3,4,0.2\n"
    write(expdir / "none_a" / "history.csv", history)
    for number, stage in ((6, "pretrain"), (8, "finetune"), (12, "report")):
        record = {
            "number": number,
            "stage": stage,
            "scope": "none_a",
            "state": "done",
            "command": "./run.sh --seed 1",
        }
        write(expdir / ".stages" / f"{number:02}_{stage}@none_a.json", record)
    write(expdir / "logs" / "x.log", "not an experiment")
    return expdir


def report(expdir, capsys):
    status = main(["--expdir", str(expdir), "--out_dir", str(expdir / "report")])
    printed = capsys.readouterr()
    path = expdir / "report" / "RESULTS.md"
    return status, printed.out + printed.err, path.read_text(encoding="utf-8") if path.exists() else ""


def cells(text, *start):
    """Cells of the one table row that begins with these."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    (row,) = [row for row in rows if row[: len(start)] == list(start)]
    return row[len(start) :]


def test_tables(expdir, capsys):
    status, printed, text = report(expdir, capsys)
    assert status == 0
    overview, details = text.split("## Details")
    assert cells(overview, "experiment", "decoding") == ["test_clean", "test_noisy"]
    assert cells(overview, "none_a", "joint") == ["10.00", "10.00"]
    assert cells(overview, "none_a", "ctc") == ["12.50", "missing"]
    assert cells(overview, "pretrain_a", "joint") == ["20.00", "20.00"]
    found = cells(details, "none_a", "joint", "test_clean")
    assert found == ["10.00", "5.00", "50.00", "3", "2", "1", "60", "12", "0.0123", "cpu, 2 threads"]
    trained = text.split("## Experiments")[1]
    assert cells(trained, "none_a") == ["2, 3", "1", "3,000,000", "3", "300", "300", "12 min 34 s"]
    assert cells(trained, "pretrain_a") == ["missing"] * 7
    assert "Word error rates" in printed and "5 results of 2 experiments" in printed


def test_commands_and_versions(expdir, capsys):
    _, _, text = report(expdir, capsys)
    assert "Stages 6 pretrain [none_a], 8 finetune [none_a]:\n\n```sh\n./run.sh --seed 1\n```" in text
    assert text.count("./run.sh") == 1 and "12 report" not in text
    assert text.count("python -m espnet_ext.bin.decode") == 5
    assert cells(text, "torch")[-1] == "2.11.0"
    assert cells(text, "espnet_ext commit")[-1] == "abc"


def test_another_version_gets_a_column(expdir, capsys):
    add_result(expdir, "none_a", "ctc", "test_clean", 12.5, commit="def")
    _, _, text = report(expdir, capsys)
    assert sorted(cells(text, "espnet_ext commit")[1:]) == ["abc", "def"]
    assert cells(text, "", "this report") == ["decoding 1", "decoding 2"]
    assert "- decoding 1: none_a/ctc/test_clean\n" in text


def test_the_same_input_gives_the_same_report(expdir, capsys):
    assert report(expdir, capsys)[2] == report(expdir, capsys)[2]


def test_curves_are_drawn(expdir, capsys):
    _, _, text = report(expdir, capsys)
    assert "![validation curves](learning_curves.png)" in text
    assert (expdir / "report" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_missing_is_said(expdir, capsys):
    (expdir / "none_a" / "history.csv").unlink()
    for path in (expdir / ".stages").iterdir():
        path.unlink()
    (expdir / "none_a" / "decode_ctc" / "test_clean" / "decode.json").unlink()
    add_result(expdir, "none_a", "att", "test_clean")
    _, _, text = report(expdir, capsys)
    assert "missing: no experiment has a history.csv" in text
    assert "Stages: missing" in text
    details = text.split("## Details")[1]
    assert cells(details, "none_a", "ctc", "test_clean")[-2:] == ["missing", "missing"]
    assert cells(details, "none_a", "att", "test_clean")[:3] == ["missing"] * 3


def test_a_result_of_an_older_model_is_marked(expdir, capsys):
    write(expdir / "none_a" / "export" / "model.pth", "another model")
    _, _, text = report(expdir, capsys)
    assert cells(text.split("## Details")[0], "none_a", "joint") == ["10.00 (!)"] * 2
    assert cells(text.split("## Details")[0], "pretrain_a", "joint") == ["20.00"] * 2
    assert "run stages 10 to 12 again" in text


def test_nothing_scored_yet(tmp_path, capsys):
    write(tmp_path / "exp" / "none_a" / "config.yaml", "{}")
    status, _, text = report(tmp_path / "exp", capsys)
    assert status == 0 and "No set has been scored yet" in text


def test_empty_references_are_undefined(expdir, capsys):
    path = expdir / "none_a" / "decode_ctc" / "test_clean" / "score" / "result.json"
    write(path, {**json.loads(path.read_text()), "wer": None})
    assert cells(report(expdir, capsys)[2].split("## Details")[0], "none_a", "ctc")[0] == "undefined"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda expdir: write(expdir / "none_a" / "train_summary.json", "{"), "train_summary.json: not JSON"),
        (
            lambda expdir: write(expdir / "none_a" / "history.csv", "epoch,step\n1,x\n"),
            "history.csv:2: expected a number",
        ),
    ],
)
def test_damaged_files_are_named(expdir, capsys, damage, message):
    damage(expdir)
    status, printed, text = report(expdir, capsys)
    assert status == 0 and message in printed
    assert message in text.split("## What is missing")[1] and "| none_a" in text


def test_no_experiments(tmp_path, capsys):
    assert "no such folder" in report(tmp_path / "exp", capsys)[1]
    (tmp_path / "exp").mkdir()
    status, printed, _ = report(tmp_path / "exp", capsys)
    assert status == 1 and "no experiment in it" in printed


def test_starts_without_torch():
    code = "import sys, espnet_ext.bin.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
