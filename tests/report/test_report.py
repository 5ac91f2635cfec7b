"""`bin.report` on folders as the other stages leave them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ext.bin.report import main
from tests.report.folders import add_result, decode, hypotheses, make_set, stage, train, write


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Two sets of 12 speakers and a development set."""
    dump = tmp_path_factory.mktemp("dump")
    folders = {name: dump / name for name in ("test_clean", "test_noisy", "dev")}
    for folder in folders.values():
        make_set(folder)
    return folders


@pytest.fixture
def expdir(tmp_path, scored):
    """A copy of `scored`, to change."""
    return Path(shutil.copytree(scored, tmp_path / "exp"))


@pytest.fixture(scope="session")
def scored(tmp_path_factory, sets):
    """A starting model, a method and its control, of which one also has another decoding."""
    expdir = tmp_path_factory.mktemp("recipe") / "exp"
    for experiment, wrong in (("pretrain_seed1", 0.3), ("none_seed1", 0.2), ("gan_seed1", 0.05)):
        for dataset in ("test_noisy", "test_clean", "dev"):
            add_result(expdir, experiment, "joint", sets[dataset], wrong)
    add_result(expdir, "none_seed1", "ctc", sets["test_clean"], 0.25)
    train(expdir, "none_seed1")
    train(expdir, "gan_seed1", columns="train_critic_gap valid_critic_gap")
    for number, name in ((6, "pretrain"), (8, "finetune"), (12, "report")):
        stage(expdir, number, name, "none_seed1")
    write(expdir / "logs" / "x.log", "not an experiment")
    return expdir


def report(expdir, capsys, *more):
    status = main(["--expdir", str(expdir), "--out_dir", str(expdir / "report"), *more])
    printed = capsys.readouterr()
    path = expdir / "report" / "RESULTS.md"
    return status, printed.out + printed.err, path.read_text(encoding="utf-8") if path.exists() else ""


def results(expdir):
    return json.loads((expdir / "report" / "results.json").read_text(encoding="utf-8"))


def cells(text, *start):
    """Cells of the one table row that begins with these."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    (row,) = [row for row in rows if row[: len(start)] == list(start)]
    return row[len(start) :]


def one(rows, **wanted):
    """The one mapping with these values."""
    (found,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return found


def test_tables(expdir, capsys):
    status, printed, text = report(expdir, capsys)
    assert status == 0
    overview, details = text.split("## Details")
    assert cells(overview, "system", "decoding") == ["seeds", "dev", "test_clean", "test_noisy"]
    found = results(expdir)
    row = one(found["results"], experiment="none_seed1", decoding="joint", set="test_clean")
    scored = json.loads((expdir / "none_seed1/decode_joint/test_clean/score/result.json").read_text())
    assert (row["wer"], row["words"]) == (scored["wer"], scored["words"]) and row["wer"] > 10
    low, high = scored["intervals"]["wer"]
    assert cells(overview, "none", "joint")[2] == f"{row['wer']:.2f} [{low:.2f}, {high:.2f}]"
    assert cells(overview, "none", "ctc")[1] == "missing"
    shown = cells(details, "none_seed1", "joint", "test_clean")
    words = row["words"]
    kinds = [str(words[name]) for name in ("substitutions", "deletions", "insertions", "reference")]
    assert shown[3:] == [*kinds, "48", "0.0123", "cpu, 2 threads"]
    trained = text.split("## Experiments")[1]
    assert cells(trained, "none_seed1") == ["2, 3", "1", "3,000,000", "3", "300", "300", "12 min 34 s"]
    assert cells(trained, "pretrain_seed1") == ["missing", "1", *["missing"] * 5]
    assert "Word error rates" in printed and "10 results of 3 experiments" in printed


def test_a_clear_difference_is_shown(expdir, capsys):
    _, _, text = report(expdir, capsys)
    found = results(expdir)["comparisons"]
    assert [(each["system"], each["control"], each["set"]) for each in found] == [
        ("gan", "none", "test_clean"),
        ("gan", "none", "test_noisy"),
    ]  # nothing on dev: epochs were chosen on it
    for each in found:
        assert each["shown"] and each["difference"]["high"] < 0 and each["not_matched"] == []
        assert "fewer errors than none" in each["verdict"] and each["comparisons"] == 2
        assert each["verdict"].replace("<", "&lt;") in text
        assert each["mapsswe"][0]["p"] < 0.01 and each["drawn"] == "speakers"
        assert any("one training each" in note for note in each["caveats"])
    controls = {each["control"] for each in results(expdir)["not_compared"]}
    assert "gan_no_critic" in controls and "none" not in controls


def test_no_difference_says_what_could_be_seen(expdir, sets, capsys):
    for dataset in ("test_noisy", "test_clean"):
        add_result(expdir, "gan_seed1", "joint", sets[dataset], 0.2001, seed=3)
    report(expdir, capsys)
    for each in results(expdir)["comparisons"]:
        assert not each["shown"]
        assert each["verdict"].startswith("no difference shown; this test could see a change of ")
        assert 0 < each["detectable"] < 20


def test_systems_that_decode_otherwise_are_compared_among_themselves(expdir, sets, capsys):
    """Transducers beside joint decoding, a control about decoding, a pair that has no way in common."""
    for experiment, wrong in (("distillation_seed1", 0.1), ("distillation_scratch_seed1", 0.3)):
        add_result(expdir, experiment, "transducer", sets["test_clean"], wrong)
    add_result(expdir, "lm_transfer_seed1", "joint", sets["test_clean"], 0.1)
    add_result(expdir, "none_fusion_seed1", "tuned_lm", sets["test_clean"], 0.15)
    _, _, text = report(expdir, capsys, "--compare", "distillation", "none")
    found = results(expdir)
    ways = {(e["system"], e["control"]): (e["decoding"], e["control_decoding"]) for e in found["comparisons"]}
    assert ways["distillation", "distillation_scratch"] == ("transducer", "transducer")
    assert ways["lm_transfer", "none_fusion"] == ("joint", "tuned_lm")
    mixed = one(found["comparisons"], system="distillation", control="none")
    assert any("decoded in different ways, transducer and joint" in note for note in mixed["caveats"])
    assert found["decoding"]["gan"] == "joint" and "`transducer` (distillation" in text
    _, printed, _ = report(expdir, capsys, "--decoding", "ctc")
    assert results(expdir)["decoding"]["none"] == "ctc" and results(expdir)["decoding"]["gan"] == "joint"
    assert "nothing was decoded with greedy; there are: " in report(expdir, capsys, "--decoding", "greedy")[1]


def test_seeds_are_paired(expdir, sets, capsys):
    for experiment, wrong in (("none_seed2", 0.2), ("gan_seed2", 0.06), ("gan_seed3", 0.05)):
        for dataset in ("test_noisy", "test_clean"):
            add_result(expdir, experiment, "joint", sets[dataset], wrong, seed=int(experiment[-1]))
    report(expdir, capsys)
    each = results(expdir)["comparisons"][0]
    assert (each["seeds"], each["unpaired_seeds"]) == (["1", "2"], ["3"])
    assert "seed 3 has no partner and was left out" in each["caveats"]
    assert [test["seed"] for test in each["mapsswe"]] == ["1", "2"]
    summary = one(results(expdir)["summaries"], system="gan", set="test_clean", decoding="joint")
    assert summary["seeds"] == ["1", "2", "3"]


def test_peers_stand_for_their_training_together(expdir, sets, capsys):
    for peer, wrong in (("peer1", 0.05), ("peer2", 0.3)):
        add_result(expdir, f"mutual_learning_seed1/{peer}", "joint", sets["test_clean"], wrong)
    train(expdir, "mutual_learning_seed1", columns="valid_agreement")
    report(expdir, capsys)
    found = results(expdir)
    rates = [
        one(found["results"], experiment=f"mutual_learning_seed1/{peer}")["wer"]
        for peer in ("peer1", "peer2")
    ]
    summary = one(found["summaries"], system="mutual_learning")
    assert summary["value"] == pytest.approx(sum(rates) / 2, abs=1e-3)
    assert one(found["comparisons"], system="mutual_learning")["mapsswe"] == []
    add_result(expdir, "mutual_learning_seed1", "joint", sets["test_clean"], 0.05)  # the best peer's model
    report(expdir, capsys)
    found = results(expdir)
    assert one(found["summaries"], system="mutual_learning") == summary
    assert one(found["summaries"], system="mutual_learning (best peer)")["value"] == pytest.approx(rates[0])
    assert "mutual_learning (best peer)" in [each["name"] for each in found["systems"]]


@pytest.mark.parametrize(
    ("change", "note"),
    [({"steps": 330}, "steps: 10 % more"), ({"steps": None}, "nobody knows whether it matches: steps")],
)
def test_compute_that_does_not_match_is_marked(expdir, capsys, change, note):
    path = expdir / "gan_seed1" / "train_summary.json"
    write(path, json.loads(path.read_text()) | change)
    _, _, text = report(expdir, capsys)
    for each in results(expdir)["comparisons"]:
        assert any(note in caveat for caveat in each["caveats"])
    assert note in text
    assert ("NOT MATCHED" in text) == ("10 %" in note)


def test_any_pair_on_request(expdir, capsys):
    report(expdir, capsys, "--compare", "none", "pretrain")
    found = results(expdir)["comparisons"]
    assert len(found) == 4 and found[-1]["comparisons"] == 4  # the family grows with it
    _, printed, _ = report(expdir, capsys, "--compare", "none", "nobody")
    assert "there is no nobody; there are: gan, none, pretrain" in printed


def test_few_speakers_get_no_interval_over_speakers(tmp_path, capsys):
    folder = tmp_path / "dump" / "raw" / "test"
    make_set(folder, speakers=9)
    for experiment, wrong in (("none_seed1", 0.2), ("gan_seed1", 0.1)):
        add_result(tmp_path / "exp", experiment, "joint", folder, wrong)
    _, _, text = report(tmp_path / "exp", capsys)
    each = results(tmp_path / "exp")["comparisons"][0]
    assert each["drawn"] == "utterances" and any("under 10 speakers" in note for note in each["caveats"])
    assert "over speakers: " not in text and "nothing is said about other speakers" in text


def test_csv(expdir, capsys):
    report(expdir, capsys)
    with open(expdir / "report" / "results.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 10
    row = one(rows, experiment="gan_seed1", set="test_clean")
    assert row["parameters"] == "3000000" and row["averaged_epochs"] == "2 3" and float(row["wer"]) < 10
    assert float(row["low"]) < float(row["wer"]) < float(row["high"])
    assert row["decode_command"].startswith("python -m espnet_ext.bin.decode")
    assert row["score_command"].startswith("python -m espnet_ext.bin.score --ref")


def test_commands_and_versions(expdir, capsys):
    _, _, text = report(expdir, capsys)
    assert "Stages 6 pretrain [none_seed1], 8 finetune [none_seed1]:\n\n```sh\n./run.sh --seed 1\n```" in text
    assert text.count("./run.sh") == 1 and "12 report" not in text
    assert text.count("python -m espnet_ext.bin.decode") == text.count("python -m espnet_ext.bin.score") == 10
    assert cells(text, "torch")[-1] == "2.11.0"
    assert cells(text, "espnet_ext commit")[-1] == "abc"


def test_another_version_gets_a_column(expdir, sets, capsys):
    add_result(expdir, "none_seed1", "ctc", sets["test_clean"], 0.2, commit="def")
    _, _, text = report(expdir, capsys)
    assert sorted(cells(text, "espnet_ext commit")[1:]) == ["abc", "def"]
    assert cells(text, "", "this report") == ["decoding 1", "decoding 2"]
    assert "- decoding 2: none_seed1/ctc/test_clean\n" in text


def test_the_same_input_gives_the_same_report(expdir, capsys):
    names = ("RESULTS.md", "results.json", "results.csv", "index.html")
    made = [
        report(expdir, capsys) and [(expdir / "report" / name).read_bytes() for name in names] for _ in "12"
    ]
    assert made[0] == made[1]


def test_curves_are_drawn(expdir, capsys):
    _, _, text = report(expdir, capsys)
    assert "![validation curves](learning_curves.png)" in text
    assert (expdir / "report" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_missing_is_said(expdir, sets, capsys):
    (expdir / "none_seed1" / "history.csv").unlink()
    (expdir / "gan_seed1" / "history.csv").unlink()
    for path in (expdir / ".stages").iterdir():
        path.unlink()
    (expdir / "none_seed1" / "decode_ctc" / "test_clean" / "decode.json").unlink()
    decode(expdir, "none_seed1", "att", sets["test_clean"], hypotheses(sets["test_clean"] / "text", 0.1))
    (expdir / "none_seed1" / "decode_joint" / "other").mkdir()
    _, printed, text = report(expdir, capsys)
    assert "missing: no experiment has a history.csv" in text
    assert "Stages: missing" in text
    details = text.split("## Details")[1]
    assert cells(details, "none_seed1", "ctc", "test_clean")[-2:] == ["missing", "missing"]
    assert cells(details, "none_seed1", "att", "test_clean")[:3] == ["missing"] * 3
    for message in (
        "decode_att/test_clean: decoded and not scored; run stage 11",
        "decode_joint/other: the decoding has not finished (no decode.json); run stage 10 again",
    ):
        assert (
            message in printed and message in text and message in (expdir / "report/index.html").read_text()
        )


def test_a_result_of_an_older_model_is_marked(expdir, capsys):
    write(expdir / "none_seed1" / "export" / "model.pth", "another model")
    _, _, text = report(expdir, capsys)
    rates = text.split("## Details")[0]
    assert all(cell.endswith(" (!)") for cell in cells(rates, "none", "joint")[1:])
    assert not any("(!)" in cell for cell in cells(rates, "gan", "joint"))
    assert "run stages 10 to 12 again" in text


def test_nothing_scored_yet(tmp_path, capsys):
    write(tmp_path / "exp" / "none_a" / "config.yaml", "{}")
    status, _, text = report(tmp_path / "exp", capsys)
    assert status == 0 and "No set has been scored yet" in text


def test_empty_references_are_undefined(tmp_path, capsys):
    folder = tmp_path / "dump" / "test"
    names = make_set(folder)
    write(folder / "text", "".join(f"{name}\n" for name in names))
    decoded = decode(tmp_path / "exp", "none_a", "joint", folder, "".join(f"{name} a\n" for name in names))
    from espnet_ext.bin.score import main as score

    arguments = ["--ref", folder / "text", "--hyp", decoded / "text", "--out_dir", decoded / "score"]
    assert score([*map(str, arguments)]) == 0
    _, _, text = report(tmp_path / "exp", capsys)
    assert "undefined" in cells(text.split("## Details")[0], "none_a", "joint")[1]
    assert "all references are empty" in text


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("train_summary.json", "{", "train_summary.json: not JSON"),
        ("train_summary.json", "[]", "train_summary.json: expected a mapping"),
        ("history.csv", "epoch,step\n1,x\n", "history.csv:2: expected a number"),
        ("decode_joint/test_clean/score/result.json", "{", "result.json: not JSON"),
        ("decode_joint/test_clean/score/utterances.tsv", "a\tb\n", "utterances.tsv:1: expected 16 columns"),
    ],
)
def test_damaged_files_are_named_and_the_rest_is_reported(expdir, capsys, file, contents, message):
    write(expdir / "none_seed1" / file, contents)
    status, printed, text = report(expdir, capsys)
    assert status == 0 and message in printed
    assert message in text.split("## What is missing, or gave an alarm")[1] and "| gan " in text
    assert message in (expdir / "report" / "index.html").read_text(encoding="utf-8")


def test_alarms_of_a_training_are_told(expdir, capsys):
    file = expdir / "gan_seed1" / "train_summary.json"
    write(file, json.dumps({**json.loads(file.read_text()), "alarms": ["step 9: the critic"]}))
    _, _, text = report(expdir, capsys)
    assert "- gan\\_seed1: step 9: the critic" in text or "- gan_seed1: step 9: the critic" in text


def test_other_references_are_not_compared(expdir, sets, tmp_path, capsys):
    other = tmp_path / "other" / "test_clean"
    make_set(other, seed=1)
    add_result(expdir, "none_seed1", "joint", other, 0.1)
    _, printed, _ = report(expdir, capsys)
    assert "none_seed1/joint/test_clean: not compared with the others: another reference, first of" in printed
    assert [each["set"] for each in results(expdir)["comparisons"]] == ["test_noisy"]


def test_other_speakers_are_not_compared(expdir, sets, tmp_path, capsys):
    """Speakers were corrected, and one of two systems was scored again: which of them would be drawn?"""
    other = tmp_path / "other" / "test_clean"
    shutil.copytree(sets["test_clean"], other)
    rows = (other / "utt2spk").read_text().splitlines()
    (other / "utt2spk").write_text("".join(f"{row.split()[0]} everybody\n" for row in rows))
    add_result(expdir, "none_seed1", "joint", other, 0.1)
    _, printed, _ = report(expdir, capsys)
    assert "none_seed1/joint/test_clean: not compared with the others: another speaker, first of" in printed
    assert [each["set"] for each in results(expdir)["comparisons"]] == ["test_noisy"]


def test_a_test_set_that_is_too_small_is_the_reason(tmp_path, capsys):
    small, expdir = tmp_path / "dump" / "test_clean", tmp_path / "exp"
    make_set(small, speakers=2)
    for experiment in ("none_seed1", "gan_seed1"):
        add_result(expdir, experiment, "joint", small, 0.2)
        train(expdir, experiment)
    _, printed, _ = report(expdir, capsys)
    found = one(results(expdir)["not_compared"], system="gan", control="none")
    assert found["reason"] == "no test set has 10 utterances, the largest has 8"
    said = [line for line in printed.splitlines() if line.startswith("not compared:")]
    assert said == [f"not compared: gan with none ({found['reason']})"]  # of controls that were run


def test_no_experiments(tmp_path, capsys):
    assert "no such folder" in report(tmp_path / "exp", capsys)[1]
    (tmp_path / "exp").mkdir()
    status, printed, _ = report(tmp_path / "exp", capsys)
    assert status == 1 and "no experiment in it" in printed


def test_starts_without_torch():
    code = "import sys, espnet_ext.bin.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_field_is_documented(expdir, capsys, repo_root):
    report(expdir, capsys)
    text = (repo_root / "docs" / "results_json.md").read_text(encoding="utf-8")
    found = results(expdir)
    names = set(found)
    for part in ("sets", "systems", "experiments", "results", "summaries", "comparisons", "not_compared"):
        names |= set(found[part][0])
    names |= set(found["comparisons"][0]["mapsswe"][0]) | set(found["results"][0]["words"])
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
