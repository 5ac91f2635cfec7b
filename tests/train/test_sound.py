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
