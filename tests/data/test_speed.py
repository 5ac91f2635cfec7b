"""Stage 2: copies at other speeds."""

import shutil

import numpy as np
import pytest
import soundfile

from espnet_ext.bin import perturb_data
from espnet_ext.data.kaldi import DataDir
from espnet_ext.data.speed import change_speed, prefix

pytestmark = pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
OUT = "data/set_sp"


def run(corpus, *more) -> int:
    return perturb_data.main([*map(str, ("--in_dir", corpus.path, "--out_dir", OUT, *more))])


def _pitch(samples: np.ndarray, rate: int) -> float:
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("channels", [1, 2])
def test_tempo_and_pitch_change_together(corpus, factor, channels):
    samples = np.stack([corpus.tone(1.0, hertz=400 * (1 + channel)) for channel in range(channels)], axis=1)
    faster = change_speed(samples.astype(np.float32), 16000, factor)
    assert faster.shape == (pytest.approx(16000 / factor, abs=2), channels)
    for channel in range(channels):
        assert _pitch(faster[:, channel], 16000) == pytest.approx(400 * (1 + channel) * factor, abs=2)
    assert np.array_equal(faster, change_speed(samples.astype(np.float32), 16000, factor)), "no random dither"


def test_combined_directory(corpus):
    corpus.write()
    assert run(corpus, "--nj", 2) == 0
    data = DataDir(OUT)
    prefixes = ("", "sp0.9-", "sp1.1-")
    assert list(data) == sorted(each + name for each in prefixes for name in corpus.names)
    for each in prefixes:
        assert data.text.rows[each + "utt-001"] == corpus.text["utt-001"]
        assert data.utt2spk.rows[each + "utt-001"] == each + "speaker1"
    assert data.wav.rows["utt-001"] == str(corpus.wav["utt-001"]), "speed 1.0 is a reference"
    for factor in (0.9, 1.1):
        info = soundfile.info(data.wav.rows[f"sp{factor}-utt-001"])
        assert info.frames == pytest.approx(0.65 * 16000 / factor, abs=2)
        assert (info.samplerate, info.subtype, info.format) == (16000, "PCM_16", "FLAC")


def test_segments_are_cut_first(corpus):
    corpus.wav = {"rec": corpus.wav["utt-005"]}
    corpus.segments = {"u-1": "rec 0.1 0.3", "u-2": "rec 0.3 -1"}
    corpus.text, corpus.utt2spk = {}, dict.fromkeys(corpus.segments, "s")
    corpus.write()
    assert run(corpus, "--speeds", 1.0, 1.1) == 0
    data = DataDir(OUT)
    assert data.segments is None and data.text is None and len(data) == 4
    assert soundfile.info(data.wav.rows["u-1"]).frames == 3200
    assert soundfile.info(data.wav.rows["sp1.1-u-1"]).frames == pytest.approx(3200 / 1.1, abs=2)


def test_hostile_ids_and_paths_reach_no_command(corpus, tmp_path):
    names = ["$(touch${IFS}owned)", "-n", "'", "a;b", "../x"]
    for number, name in enumerate(names):
        path = corpus.add(name, corpus.tone(0.3))
        corpus.wav[name] = path.with_name(["|touch owned", "-n", "*.wav", "'; touch owned", "@list"][number])
        path.rename(corpus.wav[name])
    corpus.write()
    assert run(corpus, "--speeds", 0.9) == 0
    assert {"sp0.9-" + name for name in names} < set(DataDir(OUT))
    assert [path for path in tmp_path.rglob("*owned*") if path.parent != corpus.audio] == []


@pytest.mark.parametrize("speeds", [[0], [-1], [100], ["nan"], [0.9, 0.9]])
def test_bad_speeds(corpus, fails, speeds):
    corpus.write()
    assert "--speeds" in fails(
        perturb_data.main, "--in_dir", corpus.path, "--out_dir", OUT, "--speeds", *speeds
    )


def test_all_bad_audio_is_named_once_whatever_the_speeds(corpus, capsys):
    corpus.write()
    for name in ("utt-001", "utt-004"):
        corpus.wav[name].write_bytes(b"not audio" * 50)
    assert run(corpus) == 1
    lines = capsys.readouterr().err.partition("error: ")[2].split("\n  ")
    assert [line.split("wav.scp:")[1].split(":")[0] for line in lines] == ["2", "5"]


def test_ids_that_collide(corpus, fails):
    corpus.add("sp0.9-utt-000", corpus.tone(0.3))
    corpus.write()
    message = fails(perturb_data.main, "--in_dir", corpus.path, "--out_dir", OUT)
    assert "utt2spk:1: the perturbed id 'sp0.9-utt-000' exists already" in message


def test_sox_is_missing(corpus, fails, monkeypatch):
    corpus.write()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "needs sox" in fails(perturb_data.main, "--in_dir", corpus.path, "--out_dir", OUT)
    assert run(corpus, "--speeds", 1.0) == 0, "nothing to do for sox"


def test_prefix():
    assert [prefix(speed) for speed in (1, 1.0, 0.9, 1.05)] == ["", "", "sp0.9-", "sp1.05-"]
