"""Stage 5: the same statistics as ESPnet's, and the utterances that CTC can align."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_ext.bin import collect_stats, make_features, make_tokens
from espnet_ext.data.kaldi import read_table
from espnet_ext.data.logmel import LogMel
from espnet_ext.errors import UserError

TOKENS = ("--token_list", "tok/tokens.txt", "--token_type", "char")


@pytest.fixture
def dump(corpus):
    """A function that takes the corpus as it is through stages 3 and 4."""

    def make(feats_type="raw", drops=0.05):
        corpus.write()
        arguments = ("--in_dir", corpus.path, "--out_dir", "dump/x", "--feats_type", feats_type)
        assert make_features.main([*map(str, arguments)]) == 0
        arguments = ("--text", corpus.path / "text", "--out_dir", "tok", "--token_type", "char")
        assert make_tokens.main([*map(str, arguments)]) == 0

    return make


def run(*more, out="stats") -> int:
    return collect_stats.main([*map(str, ("--data_dir", "dump/x", "--out_dir", out, *more))])


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"hop_length": 160, "win_length": 400},
        {"n_fft": 400, "hop_length": 100, "n_mels": 40, "window": "hamming", "fmin": 50, "fmax": 7000},
        {"fs": "8k", "n_fft": 256, "htk": True, "center": False, "window": None},
    ],
)
@pytest.mark.filterwarnings("ignore:A window was not provided:UserWarning")  # one case asks for none
def test_features_are_espnets(corpus, conf):
    torch = pytest.importorskip("torch")
    from espnet2.asr.frontend.default import DefaultFrontend

    ours, theirs = LogMel(**conf), DefaultFrontend(**conf)
    for length in (ours.least_samples, 1000, 16000, 100_000):
        samples = corpus.tone(length / 16000).astype(np.float32)
        expected, frames = theirs(torch.from_numpy(samples)[None], torch.tensor([length]))
        assert ours.frames(length) == frames.item() == len(ours(samples))
        np.testing.assert_allclose(ours(samples), expected[0].numpy(), rtol=1e-4, atol=1e-4)


def test_unknown_frontend_options_are_refused():
    LogMel(normalized=False, onesided=True, apply_stft=True)
    for conf in (
        {"normalized": True},
        {"window": "kaiser"},
        {"frontend_conf": {"use_wpe": True}},
        {"nmels": 80},
    ):
        with pytest.raises(UserError, match=f"frontend_conf: {next(iter(conf))} is not supported"):
            LogMel(**conf)


def _expected(corpus, names) -> dict:
    import soundfile

    features = np.concatenate(
        [LogMel()(soundfile.read(corpus.wav[name], dtype="float32")[0]) for name in names]
    )
    features = features.astype(np.float64)
    return {"count": len(features), "sum": features.sum(0), "sum_square": (features**2).sum(0)}


@pytest.mark.parametrize("nj", [1, 2])
def test_statistics_and_shapes(corpus, dump, nj):
    dump()
    assert run(*TOKENS, "--nj", nj) == 0
    stats = np.load("stats/feats_stats.npz")
    for key, value in _expected(corpus, corpus.names).items():
        np.testing.assert_allclose(stats[key], value, rtol=1e-5)
    size = len(Path("tok/tokens.txt").read_text().splitlines())
    assert read_table("stats/speech_shape").rows == read_table("dump/x/utt2num_samples").rows
    assert read_table("stats/text_shape").rows["utt-000"] == f"{len('one two three')},{size}"
    assert Path("stats/keys").read_text().split() == corpus.names
    assert Path("stats/dropped.txt").read_text() == ""


def test_global_mvn_reads_it(corpus, dump):
    torch = pytest.importorskip("torch")
    from espnet2.layers.global_mvn import GlobalMVN

    dump()
    assert run(*TOKENS) == 0
    features = torch.from_numpy(LogMel()(corpus.tone(1.0).astype(np.float32)))[None]
    out, _ = GlobalMVN("stats/feats_stats.npz")(features)
    assert out.dtype == torch.float32 and out.shape == features.shape and out.isfinite().all()


def test_fbank(corpus, dump):
    import kaldiio

    corpus.text = dict.fromkeys(corpus.text, "one two")  # half the frames of the default frontend
    dump("fbank")
    assert run(*TOKENS) == 0
    features = np.concatenate([matrix for _, matrix in kaldiio.load_scp("dump/x/feats.scp").items()])
    stats = np.load("stats/feats_stats.npz")
    assert stats["count"] == len(features)
    np.testing.assert_allclose(stats["sum"], features.sum(0, dtype=np.float64), rtol=1e-5)
    frames = read_table("dump/x/utt2num_frames").rows
    assert read_table("stats/speech_shape").rows == {name: f"{count},80" for name, count in frames.items()}


def test_result_does_not_depend_on_the_number_of_processes(corpus, dump):
    for number in range(230):
        corpus.add(f"more-{number}", corpus.tone(0.2, seed=number))
        corpus.text[f"more-{number}"] = "one"
    dump()
    for nj in (1, 3):
        assert run(*TOKENS, "--nj", nj, out=f"stats{nj}") == 0
    for path in Path("stats1").iterdir():
        if path.suffix == ".npz":
            one, other = np.load(path), np.load(Path("stats3") / path.name)
            assert all(np.array_equal(one[key], other[key]) for key in ("count", "sum", "sum_square"))
        else:
            assert path.read_bytes() == (Path("stats3") / path.name).read_bytes()


def test_what_ctc_cannot_align_is_dropped(corpus, dump, fails, capsys):
    # 0.6 s: 76 frames, 18 after the encoder's subsampling. Equal neighbours need a blank between them.
    corpus.text["utt-000"] = "abcdefghijklmnopqr"
    corpus.add("utt-x", corpus.tone(0.6))
    corpus.text["utt-x"] = "abcdefghijklmnopqq"
    dump()
    base = ("--data_dir", "dump/x", "--out_dir", "stats", *TOKENS)
    message = fails(collect_stats.main, *base)
    assert "1 of 7 utterances (14.3 %) would be dropped" in message and not Path("stats").exists()
    assert run(*TOKENS, "--max_drop_fraction", 0.2) == 0
    out = capsys.readouterr().out
    assert (
        "dropped 1: too few encoder frames for CTC to align its tokens (first: dump/x/text:7 'utt-x')" in out
    )
    assert list(read_table("stats/dropped.txt").rows) == ["utt-x"]
    for name in ("speech_shape", "text_shape"):
        assert list(read_table(f"stats/{name}").rows) == corpus.names
    stats = np.load("stats/feats_stats.npz")
    assert stats["count"] == _expected(corpus, corpus.names)["count"]
    Path("conf.yaml").write_text("encoder_conf: {input_layer: conv2d2}\n")
    assert run(*TOKENS, "--config", "conf.yaml") == 0, "twice the frames are enough"


def test_text_outside_the_token_list(corpus, dump, fails):
    dump()
    path = Path("dump/x/text")
    path.write_text(path.read_text().replace("green", "grün"), encoding="utf-8")
    message = fails(collect_stats.main, "--data_dir", "dump/x", "--out_dir", "stats", *TOKENS)
    assert "1 of 6 sentences" in message and "'ü' x1; first at dump/x/text:4" in message
    assert "--max_outside_fraction" in message
    assert run(*TOKENS, "--max_outside_fraction", 0.5) == 0


def test_unlabelled_lengths_only_and_subset(corpus, dump):
    dump()
    Path("dump/x/text").unlink()
    assert run("--feats_stats", "false") == 0
    assert {path.name for path in Path("stats").iterdir()} == {"speech_shape", "keys", "dropped.txt"}
    hours = 1.5 / 3600
    for _ in range(2):
        assert run("--max_hours", hours) == 0
        count = np.load("stats/feats_stats.npz")["count"]
        assert 0 < count < 1.5 * 125 + 10
    assert len(read_table("stats/speech_shape").rows) == 6


def test_bad_input(corpus, dump, fails):
    dump()
    base = ("--data_dir", "dump/x", "--out_dir", "stats")
    assert "directory written by the features stage" in fails(
        collect_stats.main, "--data_dir", corpus.path, "--out_dir", "stats"
    )
    assert "so --token_list is needed" in fails(collect_stats.main, *base)
    assert "c.yaml: no such training configuration" in fails(
        collect_stats.main, *base, *TOKENS, "--config", "c.yaml"
    )
    Path("c.yaml").write_text("a: [")
    assert "c.yaml: is not YAML" in fails(collect_stats.main, *base, *TOKENS, "--config", "c.yaml")
    Path("c.yaml").write_text("frontend: s3prl\n")
    assert "frontend 's3prl' are not supported" in fails(
        collect_stats.main, *base, *TOKENS, "--config", "c.yaml"
    )
    corpus.wav["utt-002"].write_bytes(corpus.wav["utt-001"].read_bytes())
    assert "wav.scp:3: " in fails(collect_stats.main, *base, *TOKENS)
    corpus.wav["utt-002"].unlink()
    assert "wav.scp:3: " in (message := fails(collect_stats.main, *base, *TOKENS))
    assert "run the features stage again" in message and not Path("stats").exists()


def test_a_full_disk_leaves_the_statistics_before(corpus, dump, fails, full_disk):
    dump()
    assert run(*TOKENS) == 0
    before = {path: path.read_bytes() for path in Path("stats").iterdir()}
    with full_disk(500):
        message = fails(collect_stats.main, "--data_dir", "dump/x", "--out_dir", "stats", *TOKENS)
    assert "stats: cannot be written: File too large; nothing was left behind" in message
    assert {path: path.read_bytes() for path in Path("stats").iterdir()} == before
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_equals_espnets_own_collect_stats(corpus, dump):
    dump()
    assert run(*TOKENS) == 0
    inputs = [
        argument
        for mode in ("train", "valid")
        for argument in (
            *(f"--{mode}_data_path_and_name_and_type", "dump/x/wav.scp,speech,sound"),
            *(f"--{mode}_data_path_and_name_and_type", "dump/x/text,text,text"),
            *(f"--{mode}_shape_file", "dump/x/wav.scp"),
        )
    ]
    # Alone in its batch: in a batch ESPnet's last two frames of a shorter utterance see the padding.
    options = "--collect_stats true --batch_size 1 --output_dir espnet --decoder rnn"
    options += " --token_type char --token_list tok/tokens.txt"
    command = [sys.executable, "-m", "espnet2.bin.asr_train", *options.split(), *inputs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = np.load("stats/feats_stats.npz"), np.load("espnet/train/feats_stats.npz")
    assert set(ours) == set(theirs) and ours["count"] == theirs["count"]
    for key in ("sum", "sum_square"):
        assert ours[key].dtype == theirs[key].dtype and ours[key].shape == theirs[key].shape
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4)
    assert Path("stats/speech_shape").read_text() == Path("espnet/train/speech_shape").read_text()
    assert {
        key: value.split(",")[0] for key, value in read_table("stats/text_shape").rows.items()
    } == read_table("espnet/train/text_shape").rows


def test_audio_of_another_rate_than_the_models(tmp_path):
    """8 kHz audio under filters for 16 kHz would train, and nobody would see why it is bad."""
    folder = tmp_path / "dump"
    folder.mkdir()
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    (folder / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    (folder / "utt2num_samples").write_text("a 8000\n")
    config = tmp_path / "train.yaml"
    config.write_text("frontend_conf: {fs: 16k}\nencoder_conf: {input_layer: conv2d}\n")
    command = [sys.executable, "-m", "espnet_ext.bin.collect_stats", "--data_dir", str(folder)]
    done = subprocess.run(
        [*command, "--out_dir", str(tmp_path / "stats"), "--config", str(config)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "wav.scp:1: audio of 8000 Hz, but" in done.stderr and "frontend_conf fs: 16000" in done.stderr
    assert not (tmp_path / "stats").exists()
