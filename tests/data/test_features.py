"""Stage 3: what comes out, what is dropped, what is refused."""

import filecmp

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_ext.bin import make_features
from espnet_ext.data.fbank import fbank
from espnet_ext.data.kaldi import DataDir, read_table

OUT = "dump/raw/set one"
HOSTILE = [
    "$(touch owned)".replace(" ", "${IFS}"),
    "'q'",
    '"d"',
    "../../up",
    "/abs",
    ";ls",
    "`id`",
    "-n",
    "日本",
    "A",
    "a",
]


def run(corpus, *more, out=OUT) -> int:
    return make_features.main([*map(str, ("--in_dir", corpus.path, "--out_dir", out, *more))])


def rows(name, out=OUT) -> dict:
    return read_table(f"{out}/{name}").rows


def test_good_audio_stays_where_it_is(corpus, capsys):
    corpus.write()
    before = {path: path.read_bytes() for path in corpus.audio.iterdir()}
    assert run(corpus) == 0
    assert rows("wav.scp") == {name: str(path) for name, path in corpus.wav.items()}
    assert rows("utt2num_samples")["utt-003"] == str(round(0.75 * 16000))
    assert rows("text") == corpus.text and rows("utt2spk") == corpus.utt2spk
    assert rows("spk2utt")["speaker0"] == "utt-000 utt-002 utt-004"
    assert not (corpus.path / "spk2utt").exists()
    assert {path: path.read_bytes() for path in corpus.audio.iterdir()} == before
    assert "6 of 6 utterances" in capsys.readouterr().out
    DataDir(OUT)


def test_espnet_reads_it(corpus):
    from espnet2.fileio.sound_scp import SoundScpReader

    corpus.add("utt-x", corpus.tone(0.5, 44100), 44100)
    corpus.write()
    assert run(corpus) == 0
    reader = SoundScpReader(f"{OUT}/wav.scp")
    lengths = rows("utt2num_samples")
    for name in [*corpus.names, "utt-x"]:
        rate, samples = reader[name]
        assert rate == 16000 and samples.shape == (int(lengths[name]),)


def test_resampled_and_said(corpus, capsys):
    corpus.add("utt-a", corpus.tone(0.5, 8000), 8000)
    corpus.add("utt-b", corpus.tone(0.5, 44100), 44100)
    corpus.write()
    assert run(corpus) == 0
    out = capsys.readouterr().out
    assert "resampled from 8000 to 16000 Hz: 1 (first: " in out and "wav.scp:7" in out
    assert "resampled from 44100 to 16000 Hz: 1 (first: " in out and "wav.scp:8" in out
    for name in ("utt-a", "utt-b"):
        path = rows("wav.scp")[name]
        assert path.startswith(f"{OUT}/audio/") and name not in path
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert abs(info.frames - 8000) <= 1 and rows("utt2num_samples")[name] == str(info.frames)


def test_floats_beyond_full_scale_are_said(corpus, capsys):
    corpus.write()
    scp = corpus.path / "wav.scp"
    lines = scp.read_text().splitlines()
    soundfile.write("loud.wav", corpus.tone(0.5, 16000) * 40, 16000, subtype="FLOAT")
    scp.write_text("\n".join([f"{lines[0].split()[0]} loud.wav", *lines[1:]]) + "\n")
    assert run(corpus) == 0
    assert "peak above 2 times full scale, cut off in copies: 1 (first: " in capsys.readouterr().out


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_other_audio_under_the_same_paths_is_other_content(corpus, feats_type):
    both = np.stack([corpus.tone(0.5, 16000), 0.5 * corpus.tone(0.5, 16000)], axis=1)
    corpus.add("utt-a", both, 16000)
    corpus.write()
    contents = []
    for how in ("first", "mean", "first"):
        assert run(corpus, "--feats_type", feats_type, "--multichannel", how) == 0
        with open(f"{OUT}/content", encoding="utf-8") as handle:
            contents.append(handle.read())
    assert contents[0] == contents[2] != contents[1]


def test_stereo(corpus, fails, capsys):
    left, right = corpus.tone(0.5, hertz=200), corpus.tone(0.5, hertz=500)
    corpus.add("utt-s", np.stack([left, right], axis=1))
    corpus.write()
    arguments = ("--in_dir", corpus.path, "--out_dir", OUT)
    assert "wav.scp:7: " in (message := fails(make_features.main, *arguments))
    assert "has 2 channels" in message and "--multichannel mean" in message
    for how, expected in (("mean", (left + right) / 2), ("first", left)):
        assert run(corpus, "--multichannel", how) == 0
        assert f"{how} of 2 channels taken: 1" in capsys.readouterr().out
        samples, _ = soundfile.read(rows("wav.scp")["utt-s"])
        np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_dropped_and_counted(corpus, fails, capsys):
    corpus.add("utt-a", corpus.tone(0.05))
    corpus.add("utt-b", corpus.tone(3))
    corpus.add("utt-c", corpus.tone(0))
    corpus.add("utt-d", corpus.tone(0.5))
    corpus.text["utt-d"] = ""
    corpus.write()
    limits = ("--min_duration", 0.1, "--max_duration", 2)
    message = fails(make_features.main, "--in_dir", corpus.path, "--out_dir", OUT, *limits)
    assert "4 of 10 utterances (40.0 %) would be dropped, the limit is 5 % (--max_drop_fraction)" in message
    assert not (corpus.path.parent.parent / "dump" / "raw" / "set one").exists()
    assert run(corpus, *limits, "--max_drop_fraction", 0.4) == 0
    out = capsys.readouterr().out
    for line in (
        f"dropped 1: empty transcript (first: {corpus.path}/text:10 'utt-d')",
        f"dropped 2: not longer than 0.1 s (first: {corpus.path}/wav.scp:7 'utt-a')",
        f"dropped 1: not shorter than 2 s (first: {corpus.path}/wav.scp:8 'utt-b')",
    ):
        assert line in out
    assert set(rows("dropped.txt")) == {"utt-a", "utt-b", "utt-c", "utt-d"}
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        assert list(rows(name)) == corpus.names


@pytest.mark.parametrize("rate", ["abc", "-16000", "0k", "16.5"])
def test_bad_rate(corpus, fails, rate):
    corpus.write()
    message = fails(make_features.main, "--in_dir", corpus.path, "--out_dir", OUT, f"--fs={rate}")
    assert f"sample rate {rate!r}: expected Hz, as in 16000, or kHz, as in 16k" in message


def test_sets_that_must_stay_whole(corpus, fails):
    corpus.add("utt-long", corpus.tone(30))
    corpus.write()
    whole = ("--min_duration", 0, "--max_duration", "inf", "--max_drop_fraction", 0)
    assert run(corpus, *whole) == 0
    assert "utt-long" in rows("wav.scp")
    corpus.text["utt-long"] = ""
    corpus.write()
    message = fails(make_features.main, "--in_dir", corpus.path, "--out_dir", OUT, *whole)
    assert "text:7 'utt-long'" in message and "the limit is 0 %" in message


def test_everything_dropped(corpus, fails):
    corpus.write()
    arguments = ("--in_dir", corpus.path, "--out_dir", OUT, "--min_duration", 5, "--max_drop_fraction", 1)
    assert "6 of 6 utterances" in fails(make_features.main, *arguments)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
@pytest.mark.parametrize("nj", [1, 2])
def test_bad_audio_is_named_and_nothing_is_written(corpus, fails, damage, nj):
    for number in range(90):  # several parts, so that there are several processes
        corpus.wav[f"more-{number:02d}"] = corpus.wav["utt-000"]
        corpus.utt2spk[f"more-{number:02d}"] = "s"
    corpus.text = {}
    corpus.write()
    path = corpus.wav["utt-004"]
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not audio" * 50, "cut": data[: len(data) // 2]}[damage])
    message = fails(make_features.main, "--in_dir", corpus.path, "--out_dir", OUT, "--nj", nj)
    assert "wav.scp:95: " in message and "4 tone.wav" in message
    assert list(corpus.path.parent.parent.glob("dump/raw/**/*")) == []


@pytest.mark.parametrize("nj", [1, 2])
def test_all_bad_audio_is_named_at_once(corpus, capsys, nj):
    """One at a time, thirty broken files of a corpus would be thirty runs."""
    for number in range(90):
        corpus.wav[f"more-{number:02d}"] = corpus.audio / f"{number}.wav"
        corpus.wav[f"more-{number:02d}"].write_bytes(corpus.wav["utt-000"].read_bytes())
        corpus.utt2spk[f"more-{number:02d}"] = "s"
    corpus.text = {}
    corpus.write()
    for number in (3, 50, 88):
        (corpus.audio / f"{number}.wav").write_bytes(b"not audio" * 50)
    assert run(corpus, "--nj", nj) == 1
    lines = capsys.readouterr().err.partition("error: ")[2].split("\n  ")
    assert [line.split("wav.scp:")[1].split(":")[0] for line in lines] == ["4", "51", "89"]
    for number in range(40):
        (corpus.audio / f"{number}.wav").write_bytes(b"")
    assert run(corpus, "--nj", nj) == 1
    message = capsys.readouterr().err
    assert message.count("is empty") == 10
    assert message.rstrip().endswith("and more, the rest has not been read")
    assert list(corpus.path.parent.parent.glob("dump/raw/**/*")) == []


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_hostile_ids_arrive_unharmed(corpus, feats_type):
    for number, name in enumerate(HOSTILE):
        corpus.add(name, corpus.tone(0.3, 8000, seed=number), 8000)
        corpus.utt2spk[name] = HOSTILE[-number]
    corpus.write()
    before = {str(path) for path in corpus.path.parent.parent.rglob("*")}
    assert run(corpus, "--feats_type", feats_type) == 0
    table = rows("wav.scp" if feats_type == "raw" else "feats.scp")
    assert set(HOSTILE) < set(table) and list(table) == sorted(table, key=str.encode)
    assert rows("text") == corpus.text and rows("utt2spk") == corpus.utt2spk
    new = {str(path) for path in corpus.path.parent.parent.rglob("*")} - before
    assert all("/dump" in path for path in new) and not any(
        name in path for name in HOSTILE[:2] for path in new
    )
    if feats_type == "fbank":
        loaded = kaldiio.load_scp(f"{OUT}/feats.scp")
        assert {name: len(loaded[name]) for name in table} == {
            name: int(length) for name, length in rows("utt2num_frames").items()
        }


def test_segments(corpus, fails):
    long = corpus.tone(2.0, hertz=100) * np.linspace(0, 1, 32000)
    path = corpus.audio / "long.wav"
    soundfile.write(path, long, 16000, subtype="PCM_16")
    corpus.wav = {"rec": path}
    corpus.segments = {"u-1": "rec 0.25 0.75", "u-2": "rec 0.5 -1", "u-3": "rec 1.5 2.3"}
    corpus.utt2spk = dict.fromkeys(corpus.segments, "s")
    corpus.text = dict.fromkeys(corpus.segments, "words")
    corpus.write()
    assert run(corpus) == 0
    assert rows("utt2num_samples") == {"u-1": "8000", "u-2": "24000", "u-3": "8000"}
    cut, _ = soundfile.read(rows("wav.scp")["u-1"])
    np.testing.assert_allclose(cut, long[4000:12000], atol=1e-4)
    corpus.segments["u-3"] = "rec 1.5 3.5"
    corpus.write()
    message = fails(make_features.main, "--in_dir", corpus.path, "--out_dir", OUT)
    assert "segments:3: the segment of 'u-3' reaches to 3.50 s" in message and "'rec' has 2.00 s" in message


def test_result_does_not_depend_on_the_number_of_processes(corpus):
    for number in range(100):
        corpus.add(f"more-{number}", corpus.tone(0.2, 8000, seed=number), 8000)
    corpus.write()
    for feats_type in ("raw", "fbank"):
        outs = []
        for nj in (1, 3):
            assert run(corpus, "--nj", nj, "--feats_type", feats_type, out="dump/it") == 0
            outs.append(corpus.path.parent / f"{feats_type}-{nj}")
            (corpus.path.parent.parent / "dump" / "it").rename(outs[-1])
        files = sorted(str(path.relative_to(outs[0])) for path in outs[0].rglob("*") if path.is_file())
        match, mismatch, errors = filecmp.cmpfiles(*outs, files, shallow=False)
        assert len(match) == len(files) > 5 and not mismatch and not errors


def test_compressed_audio_is_rewritten(corpus):
    path = corpus.add("utt-ogg", corpus.tone(0.5))
    corpus.wav["utt-ogg"] = path.with_suffix(".ogg")
    soundfile.write(corpus.wav["utt-ogg"], corpus.tone(0.5), 16000)
    corpus.write()
    assert run(corpus) == 0
    assert rows("wav.scp")["utt-ogg"].endswith(".flac") and rows("utt2num_samples")["utt-ogg"] == "8000"


def test_out_dir_of_another_is_not_replaced(corpus, fails):
    corpus.write()
    mine = corpus.path.parent.parent / "precious"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    for out, message in ((mine, "was not written by this command"), (corpus.path, "would replace the input")):
        assert message in fails(make_features.main, "--in_dir", corpus.path, "--out_dir", out)
    assert "would replace" in fails(
        make_features.main, "--in_dir", corpus.path, "--out_dir", corpus.path.parent
    )
    assert (mine / "thesis.tex").exists() and corpus.file("text").exists()
    assert run(corpus) == 0
    assert run(corpus) == 0, "its own output may be replaced"


def test_fbank_is_kaldis(corpus):
    torch = pytest.importorskip("torch")
    from torchaudio.compliance import kaldi

    samples = (corpus.tone(1.234) * 32767).astype(np.int16)
    for rate in (16000, 8000):
        expected = kaldi.fbank(
            torch.from_numpy(samples.astype(np.float32))[None],
            num_mel_bins=80,
            sample_frequency=rate,
            dither=0.0,
        ).numpy()
        ours = fbank(samples, rate)
        assert ours.shape == expected.shape and ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-3)
    assert fbank(samples[:399], 16000).shape == (0, 80)
