"""`bin.decode` from a dumped set to its files, and its messages."""

import hashlib
import json
import shlex
import shutil

import pytest
import soundfile
import torch
import yaml

from espnet_ext.bin.decode import main
from espnet_ext.data.kaldi import read_table

JOINT = {"method": "joint", "beam_size": 3, "maxlenratio": -8}


@pytest.fixture
def decode(exported, dumped, tmp_path, capsys):
    """A function that runs the command: its exit status and what it printed."""

    def run(options=JOINT, *arguments, data_dir=dumped, model_dir=exported, out_dir=tmp_path / "out"):
        config = tmp_path / "decode.yaml"
        config.write_text(options if isinstance(options, str) else yaml.safe_dump(options), encoding="utf-8")
        paths = {"--model_dir": model_dir, "--data_dir": data_dir, "--config": config, "--out_dir": out_dir}
        status = main([*(str(word) for pair in paths.items() for word in pair), *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def rows(path):
    return read_table(path, empty_values=True).rows


def test_writes_every_utterance(decode, dumped, exported, tmp_path):
    status, printed = decode()
    assert status == 0, printed
    out = tmp_path / "out"
    names = list(rows(dumped / "wav.scp"))
    text, token, scores = (rows(out / name) for name in ("text", "token", "scores"))
    assert list(text) == list(token) == list(scores) == names
    assert text["short"] == "" and any(text.values())
    assert all(text[name] == token[name].replace(" ", "") for name in names)
    assert all(float(score) <= 0 for score in scores.values())
    assert not (out / "text_nbest").exists()
    summary = json.loads((out / "decode.json").read_text())
    assert summary["utterances"] == 7 and summary["empty"] >= 1 and summary["hit_length_limit"] >= 1
    assert summary["options"]["beam_size"] == 3 and "--config" in summary["command"]
    assert summary["model_sha256"] == hashlib.sha256((exported / "model.pth").read_bytes()).hexdigest()
    seconds = sum(map(int, rows(dumped / "utt2num_samples").values())) / 16000
    assert summary["audio_seconds"] == pytest.approx(seconds, abs=1e-3)
    assert "7 utterances" in printed and "length limit" in printed


@pytest.mark.parametrize("method", ["ctc_greedy", "attention_greedy", "joint"])
def test_batches_and_jobs_change_nothing(decode, tmp_path, method):
    options = {"method": method} | ({} if method == "ctc_greedy" else {"maxlenratio": -8})
    assert decode({**options, "batch_seconds": 1000.0})[0] == 0
    assert decode({**options, "batch_seconds": 0.01}, out_dir=tmp_path / "alone")[0] == 0
    for job in ("3", "1", "2"):
        assert decode(options, "--job", job, "--num_jobs", "3", out_dir=tmp_path / "jobs")[0] == 0
    assert decode(options, "--merge", "--num_jobs", "3", out_dir=tmp_path / "jobs")[0] == 0
    for name in ("text", "token"):
        expected = (tmp_path / "out" / name).read_bytes()
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "jobs" / name).read_bytes() == expected
    whole, merged = (json.loads((tmp_path / each / "decode.json").read_text()) for each in ("out", "jobs"))
    for name in ("utterances", "audio_seconds", "empty", "hit_length_limit"):
        assert whole[name] == pytest.approx(merged[name], abs=0.01)


def test_merging_an_unfinished_job_is_refused(decode, tmp_path):
    assert decode(JOINT, "--job", "1", "--num_jobs", "2")[0] == 0
    status, printed = decode(JOINT, "--merge", "--num_jobs", "2")
    assert status == 1 and "--job 2 --num_jobs 2" in printed
    assert not (tmp_path / "out" / "text").exists()


def test_merging_different_options_is_refused(decode):
    assert decode(JOINT, "--job", "1", "--num_jobs", "2")[0] == 0
    assert decode({**JOINT, "ctc_weight": 0.5}, "--job", "2", "--num_jobs", "2")[0] == 0
    status, printed = decode(JOINT, "--merge", "--num_jobs", "2")
    assert status == 1 and "options differs" in printed


def test_more_jobs_than_utterances(decode, tmp_path):
    for job in range(1, 10):
        assert decode({"method": "ctc_greedy"}, "--job", str(job), "--num_jobs", "9")[0] == 0
    assert decode({"method": "ctc_greedy"}, "--merge", "--num_jobs", "9")[0] == 0
    assert len(rows(tmp_path / "out" / "text")) == 7


def test_several_decodings_are_each_as_alone(decode, dumped, exported, tmp_path, capsys, monkeypatch):
    """One process, one loaded model, two sets in two ways: the files of four processes."""
    from espnet_ext.decode import run

    few = tmp_path / "few"
    few.mkdir()
    for name in ("wav.scp", "utt2num_samples"):
        lines = (dumped / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (few / name).write_text("".join(lines[:3]), encoding="utf-8")
    ways = {"greedy": {"method": "ctc_greedy"}, "joint": {**JOINT, "nbest": 2}}
    pairs = [(data_dir, way) for data_dir in (dumped, few) for way in ways]
    for number, (data_dir, way) in enumerate(pairs):
        assert decode(ways[way], data_dir=data_dir, out_dir=tmp_path / f"alone{number}")[0] == 0
        (tmp_path / f"{way}.yaml").write_text(yaml.safe_dump(ways[way]))
    loads = []
    load = run.load_models
    monkeypatch.setattr(run, "load_models", lambda *a, **k: loads.append(a) or load(*a, **k))
    words = ["--model_dir", exported, "--data_dir", *(data_dir for data_dir, _ in pairs)]
    words += ["--config", *(tmp_path / f"{way}.yaml" for _, way in pairs)]
    words += ["--out_dir", *(tmp_path / f"together{number}" for number in range(4))]
    assert main([*map(str, words)]) == 0
    assert len(loads) == 1
    assert capsys.readouterr().out.count("RTF") == 4
    for number, (data_dir, way) in enumerate(pairs):
        alone, together = tmp_path / f"alone{number}", tmp_path / f"together{number}"
        assert {path.name for path in alone.iterdir()} == {path.name for path in together.iterdir()}
        for name in ("text", "token", "scores", "text_nbest"):
            if (alone / name).exists():
                assert (together / name).read_bytes() == (alone / name).read_bytes(), (name, data_dir, way)
        summary = json.loads((together / "decode.json").read_text())
        assert summary["data_dir"] == str(data_dir) and summary["options"]["method"] == ways[way]["method"]
        assert summary["decode_seconds"] > 0 and summary["rtf"] > 0
        assert (summary["load_seconds"] > 0) == (number == 0), "loaded once, counted once"
        # The command in the report does this decoding and no other.
        arguments = shlex.split(summary["command"])[3:]
        before = (together / "text").read_bytes()
        shutil.rmtree(together)
        assert main(arguments) == 0 and (together / "text").read_bytes() == before
    assert not {path.name for path in tmp_path.iterdir()} - {
        *(f"{kind}{number}" for kind in ("alone", "together") for number in range(4)),
        *("few", "decode.yaml", "greedy.yaml", "joint.yaml"),
    }


def test_what_is_done_stays_when_a_later_set_fails(decode, dumped, tmp_path, exported, capsys):
    """And a set that is not there is found before anything is decoded."""
    data = copied(dumped, tmp_path)
    lines = (data / "wav.scp").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2] = f"{lines[2].split()[0]} {tmp_path / 'gone.flac'}\n"
    (data / "wav.scp").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "greedy.yaml").write_text("method: ctc_greedy\n")
    words = ["--model_dir", exported, "--config", tmp_path / "greedy.yaml"]
    words += ["--out_dir", tmp_path / "a", tmp_path / "b", "--data_dir", dumped]
    assert main([*map(str, (*words, data))]) == 1
    assert f"{data}/wav.scp:3" in capsys.readouterr().err
    assert (tmp_path / "a" / "decode.json").exists() and not (tmp_path / "b").exists()
    shutil.rmtree(tmp_path / "a")
    assert main([*map(str, (*words, tmp_path / "none"))]) == 1
    assert "none/wav.scp: no such file" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_full_disk_leaves_nothing_that_looks_finished(decode, tmp_path, full_disk):
    assert decode()[0] == 0
    with full_disk(300):  # the texts are shorter, the summary is longer
        status, printed = decode()
    out = tmp_path / "out"
    assert status == 1 and f"error: {out / 'decode.json'}: File too large; make room and run it" in printed
    assert sorted(path.name for path in out.iterdir()) == ["scores", "text", "token"]
    assert decode()[0] == 0 and (out / "decode.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data_dir", "x", "y"], "--data_dir: expected one for all or one for each of the 3 folders"),
        (["--config", "x", "y", "z", "w"], "--config: expected one for all or one for each of the 3"),
        (["--out_dir", "a", "b", "a"], "--out_dir a b a: a folder occurs twice"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    words = ["--model_dir", "m", "--data_dir", "d", "--config", "c", "--out_dir", "a", "b", "c", *more]
    assert main(words) == 1
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_nbest_list(decode, tmp_path):
    assert decode({**JOINT, "nbest": 3})[0] == 0
    lines = (tmp_path / "out" / "text_nbest").read_text(encoding="utf-8").splitlines()
    plain = [line.split(" ", 3) for line in lines if line.startswith("plain ")]
    assert [line[1] for line in plain] == ["1", "2", "3"]
    assert plain[0][3] == rows(tmp_path / "out" / "text")["plain"]
    decode(JOINT)
    assert not (tmp_path / "out" / "text_nbest").exists()


def test_memory_that_runs_out_halves_the_batch(decode, tmp_path, monkeypatch):
    from espnet_ext.decode.recogniser import Recogniser

    assert decode({**JOINT, "batch_seconds": 1000.0}, out_dir=tmp_path / "roomy")[0] == 0
    recognise, sizes = Recogniser.__call__, []

    def small(self, inputs):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return recognise(self, inputs)

    monkeypatch.setattr(Recogniser, "__call__", small)
    assert decode({**JOINT, "batch_seconds": 1000.0})[0] == 0
    assert sizes[0] == 7 and max(sizes[1:]) == 4
    assert (tmp_path / "out" / "text").read_bytes() == (tmp_path / "roomy" / "text").read_bytes()


def test_an_utterance_that_never_fits_is_named(decode, tmp_path, monkeypatch):
    from espnet_ext.decode.recogniser import Recogniser

    def none(self, inputs):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"
        )

    monkeypatch.setattr(Recogniser, "__call__", none)
    status, printed = decode()
    assert status == 1 and "does not fit into memory" in printed
    assert not (tmp_path / "out").exists()


def test_other_errors_are_not_taken_for_full_memory(decode, monkeypatch):
    from espnet_ext.decode.recogniser import Recogniser

    def broken(self, inputs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Recogniser, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_sise": 3}, "unknown option `beam_sise`; did you mean `beam_size`?"),
        ({"beam_size": "3"}, "beam_size: expected int, found '3'"),
        ({"beam_size": True}, "beam_size: expected int, found True"),
        ({"normalize_length": 1}, "normalize_length: expected bool, found 1"),
        ({"beam_size": 0}, "beam_size: expected at least 1, found 0"),
        ({"ctc_weight": 1.5}, "ctc_weight: expected from 0 to 1, found 1.5"),
        ({"nbest": 6}, "nbest: expected from 1 to beam_size, found 6"),
        ("penalty: .nan\n", "penalty: expected a finite number, found nan"),
        ("lm_weight: .inf\n", "lm_weight: expected a finite number, found inf"),
        ({"minlenratio": 0.5, "maxlenratio": 0.2}, "more tokens than maxlenratio 0.2 allows"),
        ({"minlenratio": 1.5}, "minlenratio 1.5 asks for more tokens than maxlenratio 0 allows"),
        ({"minlenratio": -9, "maxlenratio": -5}, "no hypothesis could end"),
        ({"method": "greedy"}, "'greedy' is none of joint, attention_greedy, ctc_greedy"),
        ({"method": "ctc_greedy", "beam_size": 3}, "ctc_greedy does not read `beam_size`"),
        ("- a\n", "expected `option: value` lines, found list"),
        ("a: [\n", "not YAML"),
        ("beam_size: 2\nbeam_size: 5\n", "beam_size stands twice in one mapping"),
    ],
)
def test_bad_options_are_named(decode, tmp_path, options, message):
    status, printed = decode(options)
    assert status == 1 and message in printed
    assert str(tmp_path / "decode.yaml") in printed
    assert not (tmp_path / "out").exists()


def copied(dumped, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(dumped, folder)
    return folder


def test_a_set_without_audio_is_refused(decode, dumped, tmp_path):
    data = copied(dumped, tmp_path)
    (data / "wav.scp").rename(data / "feats.scp")
    status, printed = decode(data_dir=data)
    assert status == 1 and "the model reads audio" in printed


def test_audio_of_another_rate_is_named_with_its_line(decode, dumped, tmp_path):
    data = copied(dumped, tmp_path)
    wrong = tmp_path / "wrong.wav"
    soundfile.write(wrong, torch.zeros(4000).numpy(), 8000)
    lines = (data / "wav.scp").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2] = f"{lines[2].split()[0]} {wrong}\n"
    (data / "wav.scp").write_text("".join(lines), encoding="utf-8")
    status, printed = decode(data_dir=data)
    assert status == 1 and f"{data}/wav.scp:3" in printed and "8000 Hz" in printed
    assert not (tmp_path / "out").exists()


def test_a_recording_that_was_replaced_is_named(decode, dumped, tmp_path):
    """Plain recordings are decoded where they lie, not from a copy."""
    data = copied(dumped, tmp_path)
    lines = (data / "wav.scp").read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "other.wav"
    soundfile.write(other, torch.zeros(4000 + 1500 * 2 - 1).numpy(), 16000)
    lines[2] = f"{lines[2].split()[0]} {other}\n"
    (data / "wav.scp").write_text("".join(lines), encoding="utf-8")
    status, printed = decode(data_dir=data)
    assert status == 1 and f"{data}/wav.scp:3" in printed and "7000 samples" in printed and "6999" in printed


def test_missing_lengths_are_named(decode, dumped, tmp_path):
    data = copied(dumped, tmp_path)
    lines = (data / "utt2num_samples").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "utt2num_samples").write_text("".join(lines[1:]), encoding="utf-8")
    status, printed = decode(data_dir=data)
    assert status == 1 and f"{data}/wav.scp:1" in printed


def test_a_missing_model_is_named(decode, tmp_path):
    status, printed = decode(model_dir=tmp_path / "none")
    assert status == 1 and "none/config.yaml" in printed


def test_a_job_out_of_range_is_refused(decode):
    status, printed = decode(JOINT, "--job", "3", "--num_jobs", "2")
    assert status == 1 and "from 1 to 2" in printed
