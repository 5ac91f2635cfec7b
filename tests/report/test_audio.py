"""Recordings for the page: links, cuts out of long recordings, and how much is embedded."""

import base64
import io

import numpy as np
import pytest
import soundfile

from espnet_ext.report.audio import Player
from tests.report.folders import write


@pytest.fixture
def recipe(tmp_path):
    """A set of two recordings, paths relative to the recipe's folder, one of them with an odd name."""
    for name in ("a b#.wav", "long.flac"):
        soundfile.write(tmp_path / name, np.linspace(-0.5, 0.5, 16000), 8000)
    write(tmp_path / "dump" / "raw" / "test" / "wav.scp", "u1 a b#.wav\nu2 long.flac\nu3 gone.wav\n")
    return tmp_path


def test_links_are_relative_and_quoted(recipe):
    player = Player(recipe / "exp" / "report", room=0)
    urls = player.urls(recipe / "dump" / "raw" / "test", ["u1", "u2", "u4"], [0, 1])
    assert urls == ["../../a%20b%23.wav", "../../long.flac", None] and player.embedded == {}


def test_embedded_recordings_are_whole_and_bounded(recipe):
    data = recipe / "dump" / "raw" / "test"
    player = Player(recipe / "report", room=1_000_000)
    urls = player.urls(data, ["u1", "u2", "u3"], [2, 1])
    assert urls[1] == "test/u2" and urls[2].endswith("gone.wav")  # what cannot be read stays a link
    sound = base64.b64decode(player.embedded["test/u2"].split(",")[1])
    samples, rate = soundfile.read(io.BytesIO(sound))
    assert (len(samples), rate) == (16000, 8000)
    left = player.room
    assert player.urls(data, ["u1", "u2"], [1])[1] == "test/u2" and player.room == left  # once
    small = Player(recipe / "report", room=100)
    assert small.urls(data, ["u1", "u2"], [0, 1])[0].endswith(".wav") and small.embedded == {}


def test_segments_are_cut_out_and_not_linked(recipe):
    data = recipe / "dump" / "raw" / "test"
    write(data / "segments", "s1 u2 0.5 1.0\ns2 u2 1.0 1.5\n")
    player = Player(recipe / "report", room=1_000_000)
    assert player.urls(data, ["s1", "s2", "s9"], [1, 2]) == [None, "test/s2", None]
    sound = base64.b64decode(player.embedded["test/s2"].split(",")[1])
    samples, _ = soundfile.read(io.BytesIO(sound))
    whole, _ = soundfile.read(recipe / "long.flac")
    assert np.array_equal(samples, whole[8000:12000])


def test_sets_without_audio_have_none(recipe, tmp_path):
    player = Player(recipe / "report", room=10)
    assert player.urls(None, ["u1"], [0]) is None
    assert player.urls(tmp_path / "nowhere", ["u1"], [0]) is None
    write(tmp_path / "bad" / "wav.scp", "u1 a.wav\nu1 b.wav\n")
    assert player.urls(tmp_path / "bad", ["u1"], [0]) is None and "no audio of" in player.notes[0]
