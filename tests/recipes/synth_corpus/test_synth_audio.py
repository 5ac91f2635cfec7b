"""Sound: rooms, noises, levels, resampling."""

import os
from dataclasses import replace

import numpy as np
import pytest
from synth.lean import VARIABLE, only_these_variants
from synth.noises import COMMON, EXTRA, Noise, deal_noises, make_noise
from synth.plan import Utterance
from synth.render import at_snr, cut, render
from synth.rooms import Room, draw_room, impulse_response
from synth.speak import ESPEAK_RATE, RATE, check_tools, resample, speak
from synth.voices import Voice

from espnet_ext.errors import UserError

VOICE = Voice("v", "train", "en-us", "m3", 50, 160)


def _reverberation_time(response: np.ndarray) -> float:
    """Schroeder's backward integration, -5 to -25 dB, times three."""
    decay = 10 * np.log10(np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1])
    decay -= decay[0]
    first, last = (int(np.argmax(decay < level)) for level in (-5, -25))
    return 3 * (last - first) / RATE


@pytest.mark.parametrize("rt60", [0.15, 0.3, 0.6])
def test_room_reverberates_as_long_as_it_says(rt60):
    room = Room("r", "train", (5.0, 4.0, 2.8), (1.2, 1.1, 1.5), (3.9, 2.7, 1.2), rt60)
    response = impulse_response(room, 0)
    assert len(response) == int(rt60 * RATE) and response[0] == 1 and response.dtype == np.float32
    assert _reverberation_time(response) == pytest.approx(rt60, rel=0.35)


def test_first_reflection_comes_when_it_should():
    # source and microphone 2 m apart, both 0.5 m above a floor far nearer than any wall
    room = Room("r", "train", (9.0, 7.0, 3.5), (3.5, 3.5, 0.5), (5.5, 3.5, 0.5), 0.4)
    response = impulse_response(room, 0)
    delay = (np.hypot(2, 1) - 2) / 343 * RATE
    assert np.flatnonzero(response[1:])[0] + 1 == round(delay)


def test_drawn_rooms_are_inside_their_walls():
    for number in range(50):
        room = draw_room(f"room{number}", "dev", 0, (0.15, 0.6))
        for point in (room.source, room.microphone):
            assert all(0.49 < x < side - 0.49 for x, side in zip(point, room.size, strict=True))


@pytest.mark.parametrize("kind", sorted({*COMMON, *EXTRA["dev"], *EXTRA["test"]} - {"babble"}))
def test_noises(kind):
    one, same, other = (make_noise(Noise(n, "train", kind), 0, 2.0, [], []) for n in ("a", "a", "b"))
    assert len(one) == 2 * RATE and np.isfinite(one).all() and one.std() > 0
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_babble(espeak):
    noise = make_noise(Noise("n", "train", "babble"), 0, 1.5, [VOICE] * 3, ["one two three", "four five six"])
    assert len(noise) == 1.5 * RATE and noise.std() > 0


def test_noises_are_dealt_kind_by_kind():
    kinds = [noise.kind for noise in deal_noises("test", 20)]
    assert set(kinds) == {*COMMON, *EXTRA["test"]} and max(map(kinds.count, kinds)) == 2


def test_snr_and_cut():
    rng = np.random.default_rng(0)
    speech, noise = rng.standard_normal(1000), rng.standard_normal(700)
    scaled = at_snr(speech, noise, 10)
    assert 10 * np.log10(np.mean(speech**2) / np.mean(scaled**2)) == pytest.approx(10, abs=1e-3)
    piece = cut(np.arange(RATE), 0.5, RATE + 3)
    assert piece[0] == RATE // 2 and len(piece) == RATE + 3 and piece[RATE // 2] == 0


def test_resample_keeps_a_tone(espeak):
    time = np.arange(ESPEAK_RATE) / ESPEAK_RATE
    tone = (20000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)
    loud = np.full(500, 32767, np.int16)
    back, _ = resample([tone, loud])
    assert len(back) >= RATE and back[RATE + 20 :].max() < 0.01
    expected = 20000 / 32768 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert np.abs(back[200 : RATE - 200] - expected[200:-200]).max() < 1e-3


def test_resample_depends_on_no_neighbour(espeak):
    rng = np.random.default_rng(0)
    pieces = [rng.integers(-20000, 20000, length).astype(np.int16) for length in (3000, 441 * 9, 5001)]
    together = resample(pieces)
    for piece, result in zip(pieces, together, strict=True):
        (alone,) = resample([piece])
        assert len(alone) == len(result) and np.abs(alone - result).max() < 2e-3


def test_an_utterance(espeak):
    text = "wake me up at quarter past seven"
    assert 1.2 < len(speak(text, VOICE)) / ESPEAK_RATE < 3
    clean = Utterance("u", text, VOICE, (0.3, 0.2), -6.0)
    (samples,) = render([clean], 0, {}, {})
    assert samples.dtype == np.int16 and np.abs(samples).max() / 32768 == pytest.approx(
        10 ** (-6 / 20), rel=0.01
    )
    before = samples[: int(0.29 * RATE)]
    assert 2 < before.std() < 4  # microphone noise, not silence
    room = Room("r", "train", (5.0, 4.0, 2.8), (1.2, 1.1, 1.5), (3.9, 2.7, 1.2), 0.3)
    noise = Noise("n", "train", "white")
    noisy = Utterance("u", text, VOICE, (0.3, 0.2), -6.0, noise, 1.0, 10.0, room)
    sounds = {"n": make_noise(noise, 0, 2.0, [], [])}, {"r": impulse_response(room, 0)}
    (mixed,) = render([noisy], 0, *sounds)
    assert len(mixed) == len(samples)
    speech = mixed[int(0.3 * RATE) : -int(0.2 * RATE)].astype(float)
    # before the speech is noise alone: (speech + noise) over noise is 10 dB and the noise's own
    ratio = np.mean(speech**2) / np.mean(mixed[: int(0.29 * RATE)].astype(float) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(10.4, abs=1)


def test_words_never_reach_a_shell(espeak, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speak("$(touch pwned) ; touch pwned `touch pwned` --help", VOICE)
    assert list(tmp_path.iterdir()) == []


def test_every_accent_and_variant_is_a_voice_of_its_own(espeak, config):
    """espeak-ng speaks on without a word where it does not know a variant, or ignores it (en-gb)."""
    heard = {}
    for accent in config["accents"]:
        for variant in config["variants"][::4]:
            said = speak("half past one in march", Voice("v", "train", accent, variant, 50, 160)).tobytes()
            assert said not in heard, (accent, variant, heard[said])
            heard[said] = (accent, variant)


def test_tools_that_are_missing(espeak, monkeypatch, tmp_path):
    assert set(check_tools(["m1"])) == {"espeak-ng", "sox"}
    with pytest.raises(UserError, match="no voice variant nobody"):
        check_tools(["m1", "nobody"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="espeak-ng is not installed.*apt-get install espeak-ng"):
        check_tools([])


def test_lean_data_sounds_the_same(espeak, config, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    voices = [Voice("v", "train", accent, "f3", 60, 150) for accent in config["accents"]]
    before = [speak("turn off the light", voice).tobytes() for voice in voices]
    with only_these_variants(["m1", "f3"]) as lean:
        assert lean and [speak("turn off the light", voice).tobytes() for voice in voices] == before
        other = Voice("v", "train", "en-us", "f2", 50, 160)
        assert speak("turn", other).tobytes() == speak("turn", replace(other, variant="nobody")).tobytes()
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with only_these_variants(["m1"]) as lean:
        assert not lean
    assert os.environ[VARIABLE] == "/nowhere"


def test_nothing_said(espeak):
    with pytest.raises(UserError, match="espeak-ng said nothing"):
        speak("", VOICE)
    with pytest.raises(UserError, match="espeak-ng failed|said nothing"):
        speak("hello", Voice("v", "train", "xx-nowhere", "m1", 50, 160))
