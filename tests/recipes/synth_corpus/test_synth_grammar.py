"""The language of the grammar files, and the trigram model that measures them."""

import random
from collections import Counter

import pytest
from synth.grammar import Grammar, plural
from synth.sentences import candidates, pick, split_of
from synth.trigram import END, START, Trigram

from espnet_ext.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Call with the text of a grammar file to get a Grammar."""

    def written(text: str, **more: str) -> Grammar:
        for name, content in {"main": text, **more}.items():
            (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
        return Grammar(tmp_path)

    return written


def _all(grammar, draws=400) -> set[str]:
    rng = random.Random(1)
    return {grammar.draw(rng) for _ in range(draws)}


def test_language(write):
    assert _all(write("sentence: a b, c d")) == {"a b", "c d"}
    assert _all(write("sentence: 'one (two|three) [four|five six]'")) == {
        f"one {b}{c}" for b in ("two", "three") for c in ("", " four", " five six")
    }
    assert _all(write("sentence: '(go & to {x}) now'\nx: town", more="y: '{x}'")) == {
        "go to town now",
        "to town go now",
    }
    assert _all(write("sentence: '{x}s run'\nx: old mouse, box, city, boy, sheep")) == {
        "old mice run",
        "boxes run",
        "cities run",
        "boys run",
        "sheep run",
    }


def test_weights_and_evenness(write):
    grammar, rng = write("sentence: '{x}'\nx: a *3, b"), random.Random(2)
    share = Counter(grammar.draw(rng) for _ in range(4000))["a"] / 4000
    assert share == pytest.approx(0.75, abs=0.03)


def test_article(write):
    grammar = write("sentence: 'a (apple|uniform|ugly hat|one|european|uncle|egg|dog)'")
    assert _all(grammar) == {
        "an apple",
        "a uniform",
        "an ugly hat",
        "a one",
        "a european",
        "an uncle",
        "an egg",
        "a dog",
    }


def test_plural():
    assert [plural(word) for word in ("bus", "toy", "lorry", "knife", "train station")] == [
        "buses",
        "toys",
        "lorries",
        "knives",
        "train stations",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence: '{nothing}'", "main.yaml: rule 'sentence': no rule is called 'nothing'"),
        ("other: a", "no rule is called 'sentence'"),
        ("sentence: a,, b", "main.yaml: rule 'sentence': an empty expansion"),
        ("sentence: a Bc", "cannot read 'B'"),
        ("sentence: '(a|b'", "a '(' is not closed"),
        ("sentence: a)", "a bracket too many"),
        ("sentence: '(a|b&c)'", "'|' and '&' in one pair"),
    ],
)
def test_errors(write, text, message):
    with pytest.raises(UserError) as error:
        write(text)
    assert message in str(error.value)


def test_a_rule_defined_twice(write):
    with pytest.raises(UserError, match="second.yaml: rule 'x' is defined a second time"):
        write("sentence: '{x}'\nx: a", second="x: b")


def test_splits_take_their_share(grammar):
    rng, shares = random.Random(0), {"train": 16, "dev": 1, "test": 1}
    sentences = {grammar.draw(rng) for _ in range(6000)}
    found = Counter(split_of(sentence, shares) for sentence in sentences)
    for split, share in shares.items():
        assert found[split] / len(sentences) == pytest.approx(share / 18, rel=0.25)


def test_pick_repeats_only_when_it_must(write):
    source = candidates(write("sentence: c c c, b b b, c b a"), "x", {"x": 1}, (3, 3), random.Random(0))
    assert Counter(pick(source, 3)) == Counter(["c c c", "b b b", "c b a"])
    assert len(pick(source, 5)) == 5


def test_pick_covers(write):
    grammar = write("sentence: 'x x {y}'\ny: a *20, b")
    counts = []
    for coverage in (1, 8):
        source = candidates(grammar, "x", {"x": 1}, (3, 3), random.Random(0))
        # every draw may repeat: only the coverage is at work
        picked = [pick(source, 1, coverage, set())[0] for _ in range(1)] + pick(source, 2, coverage)
        counts.append("x x b" in picked)
    assert counts[1]


def test_trigram_is_a_distribution():
    model = Trigram(["a b c", "a b d", "b c", "a a b"])
    for context in ((START, START), (START, "a"), ("a", "b"), ("new", "words"), ("b", "new")):
        assert sum(model.probability(context, word) for word in model.words) == pytest.approx(1)
    assert model.probability(("a", "b"), "c") > model.probability(("a", "b"), "a")
    assert model.probability((START, "a"), "never heard") > 0


def test_trigram_by_hand():
    # trigrams: ^^a ^ab ab$ | ^^a ^ac ac$ -> ^^a twice, the other four once: D3 = 4 / (4 + 2)
    # bigrams by contexts before them: ^a, ab, ac, b$, c$ once each: D2 = 1; words before: a, b, c 1, $ 2
    model = Trigram(["a b", "a c"])
    # words: a b c once, the end twice, unknown once: D1 = 4 / (4 + 2), 5 kinds, 6 in all
    d1 = d3 = 2 / 3
    one = {"b": ((1 - d1) + d1 * 5 / 5) / 6, END: ((2 - d1) + d1 * 5 / 5) / 6}
    two = (1 - 1 + 1 * 2 * one["b"]) / 2  # after a: b and c, each once, all of it discounted
    assert model.probability((START, "a"), "b") == pytest.approx(((1 - d3) + d3 * 2 * two) / 2)
    assert model.probability(("new", "new"), END) == pytest.approx(one[END])


def test_perplexity_of_dice():
    """Ten words drawn evenly: ten, and a little for what is not known exactly and where lines end."""
    rng = random.Random(0)
    text = [" ".join(rng.choice("abcdefghij") for _ in range(99)) for _ in range(2000)]
    assert Trigram(text[100:]).perplexity(text[:100]) == pytest.approx(10, rel=0.08)
