"""Every kind of bad audio file is found when it is read, and named."""

import os
import subprocess

import numpy as np
import pytest
import soundfile

from espnet_ext.data import audio, riff
from espnet_ext.data.audio import read_audio, read_checked, resample, to_int16, write_flac
from espnet_ext.errors import UserError


def _refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read_audio(path, "wav.scp:7")
    assert "wav.scp:7" in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def wav(tmp_path, request):
    path = tmp_path / "a b.wav"
    soundfile.write(path, np.sin(np.arange(8000) / 10), 16000, subtype="PCM_16")
    return path


def test_good_file_is_read_exactly(wav):
    audio = read_audio(wav, "here")
    assert audio.samples.shape == (8000, 1) and audio.samples.dtype == np.int16 and audio.rate == 16000
    np.testing.assert_array_equal(audio.samples[:, 0], soundfile.read(wav, dtype="int16")[0])


def test_absent_empty_directory_and_text(tmp_path):
    assert "does not exist" in _refused(tmp_path / "absent.wav")
    assert "is not a file" in _refused(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "is empty (0 bytes)" in _refused(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("this is not audio\n" * 100)
    assert "cannot be decoded as audio" in _refused(tmp_path / "text.wav")


@pytest.mark.parametrize("keep", [20, 43, 44, 100, 15_999])
def test_wav_cut_anywhere(wav, keep):
    os.truncate(wav, keep)
    message = _refused(wav)
    assert "cut short" in message or "cannot be decoded" in message


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.95])
def test_flac_cut_anywhere(tmp_path, keep):
    path = tmp_path / "a.flac"
    write_flac(path, np.random.default_rng(0).uniform(-0.5, 0.5, 50_000).astype(np.float32), 16000)
    os.truncate(path, int(path.stat().st_size * keep))
    message = _refused(path)
    assert "cut short" in message or "cannot be decoded" in message


def test_wav_from_a_pipe_has_no_length_and_is_read(tmp_path, wav):
    path = tmp_path / "piped.wav"
    with open(path, "wb") as handle:
        subprocess.run(["sox", "-V1", str(wav), "-t", "wav", "-"], stdout=handle, check=True)
    assert len(read_audio(path, "here").samples) == 8000


def test_not_finite(tmp_path):
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.array([0.0, np.nan, 1.0]), 16000, subtype="FLOAT")
    assert "not finite" in _refused(path)


def test_integers_in_a_file_of_floats(tmp_path):
    """Full scale is 1: such a file would be noise in every copy, and 86 dB louder than others in place."""
    path = tmp_path / "kaldi.wav"
    soundfile.write(path, np.array([0.0, -20000.0, 1.0]), 16000, subtype="FLOAT")
    assert "floats up to 20000, expected -1 to 1" in _refused(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_other_depths(tmp_path, subtype):
    path = tmp_path / "a.wav"
    samples = np.sin(np.arange(1000) / 10) / 2
    soundfile.write(path, samples, 16000, subtype=subtype)
    read = to_int16(read_audio(path, "here").samples)[:, 0]
    np.testing.assert_allclose(read, samples * 32768, atol=400 if subtype == "PCM_U8" else 1)


def test_sixteen_bits_clip():
    np.testing.assert_array_equal(
        to_int16(np.float32([-2, -1, 0, 0.5, 1, 2])), [-32768, -32768, 0, 16384, 32767, 32767]
    )


def test_resample_keeps_a_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
    low = resample(tone, 44100, 16000)
    assert abs(len(low) - 16000) <= 1
    expected = np.sin(2 * np.pi * 440 * np.arange(len(low)) / 16000)
    np.testing.assert_allclose(low[500:-500], expected[500:-500], atol=2e-3)


def _with_odd_chunk(path) -> None:
    """Put a chunk of odd length between the format and the samples, as tools that write comments do."""
    data = path.read_bytes()
    place = data.index(b"data")
    path.write_bytes(data[:place] + b"LIST" + (5).to_bytes(4, "little") + b"INFO!\0" + data[place:])


@pytest.mark.parametrize(
    ("suffix", "how", "plain"),
    [
        ("wav", {"subtype": "PCM_16"}, True),
        ("wav", {"subtype": "PCM_24"}, False),
        ("wav", {"subtype": "FLOAT"}, False),
        ("wav", {"subtype": "PCM_U8"}, False),
        ("wav", {"subtype": "ULAW"}, False),
        ("wav", {"format": "WAVEX", "subtype": "PCM_16"}, False),
        ("wav", {"format": "RF64", "subtype": "PCM_16"}, False),
        ("flac", {"subtype": "PCM_16"}, False),
    ],
)
def test_read_again_gives_what_libsndfile_gives(tmp_path, monkeypatch, suffix, how, plain):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.sin(np.arange(4001) / 10) * 0.9, 16000, **how)
    if plain:
        _with_odd_chunk(path)
    expected = read_audio(path, "here").samples[:, 0]
    assert (riff.read_plain(path, 4001) is not None) == plain
    if plain:
        monkeypatch.setattr(audio.soundfile, "SoundFile", None)  # is not needed
    found = read_checked(str(path), 4001, "here")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_read_again_notices_a_change(wav, tmp_path):
    for length in (7999, 8001):
        with pytest.raises(
            UserError, match=f"wav.scp:7: .* had {length} samples .*\\(8000, 1\\); run the feat"
        ):
            read_checked(str(wav), length, "wav.scp:7")
    soundfile.write(tmp_path / "two.wav", np.zeros((4000, 2)), 16000)
    with pytest.raises(UserError, match=r"\(4000, 2\)"):
        read_checked(str(tmp_path / "two.wav"), 8000, "wav.scp:7")
    os.truncate(wav, 9000)
    with pytest.raises(UserError, match="had 8000 samples"):
        read_checked(str(wav), 8000, "wav.scp:7")
    os.truncate(wav, 30)
    with pytest.raises(UserError, match="cannot be read any more"):
        read_checked(str(wav), 8000, "wav.scp:7")
    wav.unlink()
    with pytest.raises(UserError, match="cannot be read any more"):
        read_checked(str(wav), 8000, "wav.scp:7")
