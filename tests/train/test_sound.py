"""Recordings are what libsndfile says they are, whoever reads them."""

import numpy as np
import pytest
import soundfile
from espnet2.train.dataset import sound_loader

from espnet_ext.data import riff
from espnet_ext.train.sound import Recordings


@pytest.mark.parametrize(
    ("form", "subtype", "quick"),
    [
        ("WAV", "PCM_16", True),
        ("WAV", "PCM_24", False),
        ("WAV", "FLOAT", False),
        ("WAV", "ULAW", False),
        ("FLAC", "PCM_16", False),
    ],
)
def test_samples_are_libsndfiles(tmp_path, monkeypatch, form, subtype, quick):
    samples = np.random.default_rng(0).uniform(-1, 1, 1003)
    samples[:2] = -1.0, 1.0
    path = tmp_path / f"a b.{form.lower()}"
    soundfile.write(path, samples, 16000, subtype)
    (tmp_path / "wav.scp").write_text(f"u {path}\n")
    expected = soundfile.read(path, dtype="float32")[0]
    reader = sound_loader(str(tmp_path / "wav.scp"), float_dtype="float32")
    found = Recordings(reader, {"u": 1003})["u"]
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    monkeypatch.setattr(type(reader), "__getitem__", None)  # whether ESPnet's reader is asked at all
    if quick:
        assert np.array_equal(Recordings(reader, {"u": 1003})["u"], expected)
    else:
        with pytest.raises(TypeError):
            Recordings(reader, {"u": 1003})["u"]


def test_what_espnet_alone_can_say_is_left_to_it(tmp_path):
    """Another length than was expected, and files that are gone, absent from the lists or no audio."""
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    (tmp_path / "junk.wav").write_bytes(b"RIFF....WAVEjunk")
    names = {"a": "a.wav", "junk": "junk.wav", "gone": "gone.wav"}
    (tmp_path / "wav.scp").write_text("".join(f"{n} {tmp_path / f}\n" for n, f in names.items()))
    reader = sound_loader(str(tmp_path / "wav.scp"), float_dtype="float32")
    recordings = Recordings(reader, {"a": 801, "junk": 5, "gone": 7})
    assert list(recordings) == list(names) and len(recordings) == 3
    assert len(recordings["a"]) == 800 and riff.read_plain(tmp_path / "a.wav", 801) is None
    with pytest.raises(soundfile.LibsndfileError):
        recordings["junk"]
    with pytest.raises(FileNotFoundError, match="gone"):
        recordings["gone"]
    with pytest.raises(KeyError):
        recordings["nobody"]


def recordings_of(folder, files: dict[str, tuple[np.ndarray, int]], lengths=None) -> Recordings:
    for name, (samples, rate) in files.items():
        soundfile.write(folder / f"{name}.wav", samples, rate)
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in files))
    reader = sound_loader(str(folder / "wav.scp"), float_dtype="float32")
    return Recordings(reader, {n: len(x) for n, (x, _) in files.items()} if lengths is None else lengths)


@pytest.mark.parametrize("lengths", [None, {}], ids=["here", "by ESPnet"])
def test_another_rate_or_channels_are_refused(tmp_path, lengths):
    """A file that was replaced by one with as many samples."""
    quiet = np.zeros(800)
    files = {"a": (quiet, 16000), "b": (quiet, 8000), "c": (np.zeros((800, 2)), 16000), "d": (quiet, 16000)}
    recordings = recordings_of(tmp_path, files, lengths)
    assert len(recordings["a"]) == 800
    with pytest.raises((ValueError, RuntimeError), match="rate is 8000, that of 'a' is 16000|16000 != 8000"):
        recordings["b"]
    with pytest.raises(ValueError, match="it has 2 channels, expected one"):
        recordings["c"]
    assert len(recordings["d"]) == 800


def test_the_rate_of_a_file_read_elsewhere_counts_too(tmp_path):
    files = {"a": (np.zeros(800), 16000), "b": (np.zeros(900), 8000)}
    recordings = recordings_of(tmp_path, files, {"b": 900})
    recordings["a"]
    with pytest.raises(ValueError, match="its sampling rate is 8000, that of 'a' is 16000"):
        recordings["b"]
