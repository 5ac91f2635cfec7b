"""The corpus at full scale, without its audio: sizes, splits, words, perplexity."""

import re
from collections import Counter

import pytest

TEST = ("test_clean", "test_noisy")
HELD_OUT = ("dev", *TEST)
TRAIN = ("train_clean", "train_noisy", "unlabelled")


def _sentences(plan, name) -> list[str]:
    return plan.text_only[name] if name in plan.text_only else [u.text for u in plan.sets[name]]


def test_sizes(plan):
    assert set(plan.sets) == {*TRAIN, *HELD_OUT} and len(plan.text_only["text_only"]) >= 20000
    for name in HELD_OUT:
        assert len(plan.sets[name]) >= 300 and len({u.voice for u in plan.sets[name]}) >= 20
    assert len({u.voice for u in plan.sets["train_clean"]}) >= 60
    sizes = {name: len(plan.sets[name]) for name in TRAIN}
    # 2.85 s an utterance, measured: 3 h, 20 min, 60 min
    assert 3700 < sizes["train_clean"] < 4200 and 400 < sizes["train_noisy"] < 500
    assert 1200 < sizes["unlabelled"] < 1500


def test_conditions(plan):
    noisy = {name: sum(u.noise is not None for u in group) / len(group) for name, group in plan.sets.items()}
    assert noisy["train_clean"] == noisy["test_clean"] == 0
    assert noisy["train_noisy"] == noisy["unlabelled"] == noisy["test_noisy"] == 1
    assert noisy["dev"] == pytest.approx(0.25, abs=0.02)
    for utterance in (u for group in plan.sets.values() for u in group):
        assert (utterance.noise is None) == (utterance.room is None) == (utterance.snr is None)
        assert utterance.snr is None or 5 <= utterance.snr <= 20
        assert utterance.room is None or 0.15 <= utterance.room.rt60 <= 0.6


def test_dev_hears_every_voice_in_both_conditions(plan):
    heard = {(u.voice.name, u.noise is None) for u in plan.sets["dev"]}
    assert len(heard) == 2 * len({u.voice for u in plan.sets["dev"]})


def test_no_sentence_in_two_splits(plan):
    train = {s for name in (*TRAIN, "text_only") for s in _sentences(plan, name)}
    dev, test = (set(_sentences(plan, "dev")), {s for name in TEST for s in _sentences(plan, name)})
    assert not train & dev and not train & test and not dev & test
    # what babbles in the background is training text, too
    assert not {s for group in plan.babble.values() for s in group} & (dev | test)
    # and each is asked once
    assert len(test) == sum(len(plan.sets[name]) for name in TEST) and len(dev) == len(plan.sets["dev"])


def _by_split(plan, what) -> dict[str, set]:
    names = {"train": TRAIN, "dev": ("dev",), "test": TEST}
    return {
        split: {what(u) for name in group for u in plan.sets[name]} - {None} for split, group in names.items()
    }


@pytest.mark.parametrize(
    "what",
    [
        lambda u: u.voice.name,
        lambda u: (u.voice.accent, u.voice.variant),
        lambda u: (u.voice.accent, u.voice.variant, u.voice.pitch, u.voice.speed),
        lambda u: u.noise,
        lambda u: u.room,
        lambda u: u.room and (u.room.size, u.room.source, u.room.microphone),
    ],
    ids=["voice", "accent and variant", "voice parameters", "noise", "room", "room parameters"],
)
def test_splits_share_nothing(plan, what):
    train, dev, test = _by_split(plan, what).values()
    assert train and dev and test
    assert not train & dev and not train & test and not dev & test


def test_nobody_babbles_who_speaks(plan):
    pairs = Counter(
        (voice.accent, voice.variant) for group in plan.voices.values() for voice in group
    )  # one voice a pair
    assert max(pairs.values()) == 1
    assert {"train_babble", "dev_babble", "test_babble"} < set(plan.voices)


def test_dev_and_test_hear_a_kind_of_noise_that_training_does_not(plan):
    train, dev, test = _by_split(plan, lambda u: u.noise and u.noise.kind).values()
    assert dev - train and test - train and (dev - train).isdisjoint(test - train)
    assert len(train) >= 8


def test_words(plan):
    for name in (*plan.sets, *plan.text_only):
        for sentence in _sentences(plan, name):
            assert re.fullmatch(r"[a-z']+( [a-z']+){2,11}", sentence), sentence
    lengths = [s.count(" ") + 1 for s in _sentences(plan, "test_clean")]
    assert 6 <= sum(lengths) / len(lengths) <= 8.5
    words = {word for s in _sentences(plan, "text_only") for word in s.split()}
    assert 1000 <= len(words) <= 1800


def test_training_says_the_words_of_the_test(plan):
    said = Counter(word for s in _sentences(plan, "train_clean") for word in s.split())
    for name in HELD_OUT:
        asked = [word for s in _sentences(plan, name) for word in s.split()]
        assert sum(said[word] == 0 for word in asked) <= 0.001 * len(asked)
        assert sum(said[word] < 5 for word in asked) <= 0.01 * len(asked)


def test_perplexity(plan):
    """The grammar must surprise: else a decoder knows the templates and need not listen."""
    from synth.trigram import Trigram

    model = Trigram(_sentences(plan, "text_only"))
    perplexity = {name: model.perplexity(_sentences(plan, name)) for name in HELD_OUT}
    assert all(40 <= value <= 80 for value in perplexity.values()), perplexity


def test_same_seed_same_plan(config, grammar):
    from synth.corpus import digest
    from synth.plan import make_plan

    plans = [make_plan(config, grammar, seed, 0.02) for seed in (3, 3, 4)]
    assert plans[0] == plans[1] and digest(plans[0], {}) == digest(plans[1], {})
    assert digest(plans[0], {}) != digest(plans[2], {}) and digest(plans[0], {}) != digest(
        plans[0], {"sox": "1"}
    )
    assert plans[0].sets["dev"] != plans[2].sets["dev"] and plans[0].voices != plans[2].voices


@pytest.mark.parametrize("scale", [0.001, 0.1, 3])
def test_scale(config, grammar, scale):
    from synth.plan import make_plan

    small = {
        **config,
        "sets": {n: {**s, "coverage": 1} for n, s in config["sets"].items() if n != "text_only"},
    }
    plan = make_plan(small, grammar, 0, scale)
    for name, group in plan.sets.items():
        assert len(group) == pytest.approx(max(4, config["sets"][name]["utterances"] * scale), abs=1)
        assert len({u.voice for u in group}) >= 2
    assert len(plan.voices["train"]) == (80 if scale > 1 else max(2, round(80 * scale)))
