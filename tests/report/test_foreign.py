"""Reports on what others left: ESPnet's folders, pairs of files, and input that is not as it should be."""

import json

import pytest

from espnet_ext.bin.report import main
from tests.report.folders import add_result, hypotheses, make_set, write

NAMES = [f"spk{speaker:02}-{number}" for speaker in range(12) for number in range(3)]


def trn(folder, wrong=()):
    """``score_wer`` as ESPnet's stage 13 writes it; ``wrong`` are numbers of utterances with an error."""
    lines = [f"the cat sat on the mat ({name.split('-')[0]}-{name})\n" for name in NAMES]
    write(folder / "ref.trn", "".join(lines))
    heard = [line.replace("cat", "cut") if at in wrong else line for at, line in enumerate(lines)]
    write(folder / "hyp.trn", "".join(heard))


def run(tmp_path, capsys, *arguments):
    """Status, what was printed, and results.json."""
    status = main([*map(str, arguments), "--out_dir", str(tmp_path / "out")])
    printed = capsys.readouterr()
    path = tmp_path / "out" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return status, printed.out + printed.err, found


def test_espnets_experiments(tmp_path, capsys):
    """Folders that `asr.sh` of ESPnet 202511 leaves, scored under the inference tag and under ``org``."""
    tag = "decode_asr_model_valid.acc.ave"
    for name, wrong in (("asr_train_conformer_raw", range(2, 30)), ("asr_train_ebf_raw", range(3))):
        trn(tmp_path / name / tag / "test_clean" / "score_wer", wrong)
        for file in ("text", "token", "token_int", "score"):  # a file here, a folder in this project's
            write(tmp_path / name / tag / "test_clean" / file, f"{NAMES[0]} x\n")
        trn(tmp_path / name / tag / "org" / "dev" / "score_wer")
        write(tmp_path / name / tag / "test_clean" / "logdir" / "output.1" / "1best_recog" / "text", "a b\n")
    folders = tmp_path / "asr_train_conformer_raw", tmp_path / "asr_train_ebf_raw"
    status, printed, found = run(tmp_path, capsys, *folders)
    assert status == 0
    wers = {(each["system"], each["set"]): each["wer"] for each in found["results"]}
    assert wers["asr_train_conformer_raw", "test_clean"] == pytest.approx(100 * 28 / 216, abs=1e-3)
    assert wers["asr_train_ebf_raw", "org/dev"] == 0
    assert {each["name"]: each["speakers"] for each in found["sets"]}["test_clean"] == 12
    (each,) = found["comparisons"]
    assert (each["system"], each["control"]) == ("asr_train_ebf_raw", "asr_train_conformer_raw")
    assert each["shown"] and "fewer errors than asr_train_conformer_raw" in each["verdict"]
    assert "asr_train_ebf_raw" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_espnets_decodings_that_were_not_scored(tmp_path, capsys):
    """Hypotheses in ``text``; the references lie in the recipe's dump folder, or where --data_dir says."""
    data = tmp_path / "recipe" / "dump" / "raw" / "test"
    make_set(data)
    decoded = tmp_path / "recipe" / "exp" / "asr_mine" / "decode_ctc" / "test"
    write(decoded / "text", hypotheses(data / "text", 0.1))
    _, _, found = run(tmp_path, capsys, tmp_path / "recipe" / "exp" / "asr_mine")
    assert found["results"][0]["drawn"] == "speakers" and 0 < found["results"][0]["wer"] < 30
    data.rename(tmp_path / "test")
    status, printed, _ = run(tmp_path, capsys, tmp_path / "recipe" / "exp" / "asr_mine")
    assert status == 1 and "no references for the set test: looked for test/text in" in printed
    _, _, again = run(tmp_path, capsys, tmp_path / "recipe" / "exp" / "asr_mine", "--data_dir", tmp_path)
    assert again["results"][0]["wer"] == found["results"][0]["wer"]


def test_an_unfiltered_set_has_references_of_its_own(tmp_path, capsys):
    """ESPnet decodes `org/dev`; from `dev`, which it trains with, long utterances are gone."""
    raw = tmp_path / "recipe" / "dump" / "raw"
    make_set(raw / "org" / "dev")
    (raw / "dev").mkdir()
    for name in ("text", "utt2spk"):
        lines = (raw / "org" / "dev" / name).read_text().splitlines(keepends=True)
        write(raw / "dev" / name, "".join(lines[:-3]))
    decoded = tmp_path / "recipe" / "exp" / "asr_mine" / "decode_ctc" / "org" / "dev"
    write(decoded / "text", hypotheses(raw / "org" / "dev" / "text", 0.1))
    status, _, found = run(tmp_path, capsys, tmp_path / "recipe" / "exp" / "asr_mine")
    assert status == 0 and found["problems"] == []
    assert found["sets"][0]["name"] == "org/dev" and found["sets"][0]["utterances"] == 48


def test_speakers_of_trn_files_are_those_of_the_set(tmp_path, capsys):
    """In `(<speaker>-<utterance>)` a hyphen may be of either; without the set the id alone is read."""
    exp, data = tmp_path / "recipe/exp/asr_mine", tmp_path / "recipe/dump/raw/test"
    make_set(data)
    names = [line.split()[0] for line in (data / "text").read_text().splitlines()]
    speakers = {name: name.split("-")[0].replace("spk", "f-") for name in names}
    write(data / "utt2spk", "".join(f"{name} {speaker}\n" for name, speaker in speakers.items()))
    lines = "".join(f"a b ({speakers[name]}-{name})\n" for name in names)
    for side in ("ref", "hyp"):
        write(exp / f"decode/test/score_wer/{side}.trn", lines)
    assert run(tmp_path, capsys, exp)[2]["sets"][0]["speakers"] == 12
    data.rename(tmp_path / "elsewhere")
    assert run(tmp_path, capsys, exp)[2]["sets"][0]["speakers"] == 1  # "f": as sclite would


def test_a_whole_folder_of_experiments(tmp_path, capsys):
    data = tmp_path / "dump" / "raw" / "test"
    make_set(data)
    for name, wrong in (("a_seed1", 0.3), ("b_seed1", 0.1)):
        add_result(tmp_path / "exp", name, "joint", data, wrong)
    _, _, found = run(tmp_path, capsys, tmp_path / "exp")
    assert [each["name"] for each in found["systems"]] == ["a", "b"]
    assert found["comparisons"][0]["system"] == "b" and found["comparisons"][0]["seeds"] == ["1"]


@pytest.mark.parametrize(
    ("ref", "hyp", "note"),
    [
        ("u-1 a b\nu-2 c d\n", "u-2 c d\nu-1 a x\n", "ids are the first words of the lines"),
        ("a b (s-1)\nc d (s-2)\n", "c d (s-2)\na x (s-1)\n", "ids in brackets (trn)"),
        ("a b\nc d\n", "a x\nc d\n", "no ids: compared line by line"),
    ],
)
def test_pairs_of_files(tmp_path, capsys, ref, hyp, note):
    write(tmp_path / "ref.txt", ref)
    write(tmp_path / "mine.txt", hyp)
    status, _, found = run(tmp_path, capsys, tmp_path / "ref.txt", tmp_path / "mine.txt")
    (each,) = found["results"]
    assert (status, each["wer"], each["system"], each["set"]) == (0, 25.0, "mine", "ref")
    assert any(note in text for text in each["notes"])
    assert found["summaries"][0]["low"] is None  # no interval of two utterances


def test_pairs_of_the_same_name_are_told_apart(tmp_path, capsys):
    data = tmp_path / "ref.txt"
    make_set(tmp_path / "set")
    data.write_text((tmp_path / "set" / "text").read_text())
    files = []
    for name, wrong in (("one", 0.2), ("two", 0.05)):
        write(tmp_path / name / "hyp.txt", hypotheses(data, wrong))
        files += [data, tmp_path / name / "hyp.txt"]
    status, printed, found = run(tmp_path, capsys, *files)
    assert status == 0
    assert [each["name"] for each in found["systems"]] == ["one/hyp", "two/hyp"]
    assert found["comparisons"][0]["control"] == "one/hyp"
    assert run(tmp_path, capsys, *files[:3])[0] == 1


def test_a_missing_experiment_leaves_the_others(tmp_path, capsys):
    trn(tmp_path / "here" / "decode" / "test" / "score_wer")
    status, printed, found = run(tmp_path, capsys, tmp_path / "here", tmp_path / "gone")
    message = f"{tmp_path}/gone: no such experiment folder, and no such file"
    assert status == 0 and message in printed and message in found["problems"]
    assert len(found["results"]) == 1
    status, printed, _ = run(tmp_path, capsys, tmp_path / "gone")
    assert status == 1 and "nothing to report on" in printed and message in printed


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        ("u-1 a\nu-2 b\n", "u-1 a\nu-1 a\n", "hyp.txt:2: the id 'u-1' occurs twice"),
        ("u-1 a\nu-2 b\nu-3 c\n", "u-1 a\nu-2 b\n", "1 of the 3 utterances of"),
        ("u-1 a\nu-2 b\n", "u-1 a\nu-2 b\nu-3 c\n", "hyp.txt:3) has no reference"),
        ("a b\nc d\n", "a b\n", "sentences without ids can only be compared line by line"),
        ("u-1 a\n", b"u-1 \xff\n", "hyp.txt:1: not UTF-8 (byte 0xff"),
        ("u-1 a\n", "", "hyp.txt: the file is empty"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, capsys, ref, hyp, message):
    write(tmp_path / "ref.txt", ref)
    (tmp_path / "hyp.txt").write_bytes(hyp if isinstance(hyp, bytes) else hyp.encode())
    status, printed, found = run(tmp_path, capsys, tmp_path / "ref.txt", tmp_path / "hyp.txt")
    assert status == 1 and found is None
    assert message in printed


def test_what_is_wrong_with_one_pair_does_not_hide_another(tmp_path, capsys):
    for name, text in (("ref", "u-1 a b\n"), ("good", "u-1 a b\n"), ("bad", "u-2 a b\n")):
        write(tmp_path / f"{name}.txt", text)
    files = [tmp_path / f"{name}.txt" for name in ("ref", "good", "ref", "bad")]
    status, printed, found = run(tmp_path, capsys, *files)
    assert status == 0 and len(found["results"]) == 1 and len(found["problems"]) == 1
    assert "bad.txt" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_scripts_and_letters_of_all_kinds(tmp_path, capsys):
    """Markup, right-to-left letters, combining characters and a language without spaces."""
    evil = "</script><script>alert(1)</script> | [x](javascript:1) <img src=x onerror=alert(1)>"
    rows = {"u-1": evil, "u-2": "שלום עולם", "u-3": "cafe\u0301", "u-4": "hello"}
    write(tmp_path / "ref.txt", "".join(f"{name} {text}\n" for name, text in rows.items()))
    heard = rows | {"u-3": "caf\u00e9", "u-4": ""}
    write(tmp_path / "<b>hyp.txt", "".join(f"{name} {text}".strip() + "\n" for name, text in heard.items()))
    files = tmp_path / "ref.txt", tmp_path / "<b>hyp.txt"
    status, _, found = run(tmp_path, capsys, *files)
    (each,) = found["results"]
    assert status == 0 and (each["words"]["substitutions"], each["words"]["deletions"]) == (1, 1)
    assert any("1 of 4 hypotheses are empty" in note for note in each["notes"])
    assert any("only in how letters with marks are encoded" in note for note in each["notes"])
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<img" not in page and "<b>" not in page
    assert "<b>" not in (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8").split("## Commands")[0]
    _, _, found = run(tmp_path, capsys, *files, "--normalisation", "nfc")
    assert found["results"][0]["words"]["substitutions"] == 0
    assert found["results"][0]["normalisation"] == "nfc-1"


def test_languages_without_spaces_are_counted_by_character(tmp_path, capsys):
    write(tmp_path / "ref.txt", "u-1 東京タワー\nu-2 北京 大学\n")
    write(tmp_path / "hyp.txt", "u-1 東京タワ\nu-2 北京大学\n")
    _, printed, found = run(tmp_path, capsys, tmp_path / "ref.txt", tmp_path / "hyp.txt")
    (each,) = found["results"]
    assert (each["counted"], each["wer"], each["cer"]) == ("char", None, pytest.approx(100 / 9, abs=1e-3))
    assert found["summaries"][0]["measure"] == "cer" and "Character error rates" in printed


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    write(tmp_path / "ref.txt", "a b\n")
    status, printed, _ = run(tmp_path, capsys, tmp_path / "ref.txt", tmp_path / "absent")
    assert status == 1 and f"{tmp_path}/absent: no such file or folder" in printed


def test_experiments_of_one_name_and_a_folder_at_the_top(tmp_path, capsys):
    """Where the recipe is was counted from the name, which then has more parts than the place has folders."""
    make_set(tmp_path / "dump" / "test")
    for at in ("a", "b"):
        add_result(tmp_path / at / "exp", "none_seed1", "joint", tmp_path / "dump" / "test", 0.1)
    folders = [tmp_path / at / "exp" / "none_seed1" for at in ("a", "b")]
    status, printed, found = run(tmp_path, capsys, *folders, "/usr")
    assert status == 0 and "Traceback" not in printed, printed
    assert len(found["results"]) == 2
