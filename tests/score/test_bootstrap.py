"""The bootstrap against formulas, against all draws there are, and its coverage of sets of a known truth."""

import itertools

import numpy as np
import pytest
from kaldialign import bootstrap_wer_ci
from scipy.stats import t

from espnet_ext.score.bootstrap import Groups, draw
from espnet_ext.score.compare import compare, correct

WORDS = 8


def utterances(number):
    return Groups.of(None, number)


def speakers(number, each):
    return Groups.of([f"s{index // each}" for index in range(number * each)], number * each)


def test_equal_lengths_have_the_error_of_a_mean():
    errors = np.random.default_rng(0).poisson(1.0, (50, 1))
    found = draw(errors, np.full(50, 10), utterances(50))
    estimate = found.estimate([0])
    error = 100 * np.std(errors / 10, ddof=1) / np.sqrt(50)
    assert estimate.value == pytest.approx(100 * errors.mean() / 10)
    assert estimate.error == pytest.approx(error)
    assert found.moved.std() == pytest.approx(error, rel=0.03)
    # Percentiles of a skewed set lie beside Student's interval, and are as far apart.
    assert estimate.high - estimate.low == pytest.approx(2 * t.ppf(0.975, 49) * error, rel=0.05)


def test_draws_are_those_that_there_are():
    """Four speakers, three are drawn: the distribution of all 64 draws, by brute force."""
    errors, units = np.array([[3.0], [1.0], [0.0], [7.0]]), np.array([10.0, 20.0, 5.0, 12.0])
    found = draw(errors, units, utterances(4), fewest=2)
    picked = np.array(list(itertools.product(range(4), repeat=3)))
    rates = 100 * errors[picked, 0].sum(1) / units[picked].sum(1)
    values, times = np.unique((found.moved[:, 0] + found.rates[0]).round(6), return_counts=True)
    assert set(values) == set(rates.round(6))
    for value, number in zip(values, times, strict=True):
        assert number / times.sum() == pytest.approx((rates.round(6) == value).mean(), abs=0.02)


def test_a_speakers_utterances_stay_together():
    """Speakers that differ and utterances of each that do not: the interval is one of speakers."""
    of_speaker = np.arange(12)
    errors, groups = np.repeat(of_speaker, 20)[:, None], speakers(12, 20)
    estimate = draw(errors, np.full(240, 20), groups).estimate([0])
    assert (groups.kind, groups.count) == ("speakers", 12)
    assert estimate.error == pytest.approx(100 / 20 * of_speaker.std(ddof=1) / np.sqrt(12))
    alone = draw(errors, np.full(240, 20), utterances(240)).estimate([0])
    assert alone.error < estimate.error / 4


def test_what_a_pair_shares_does_not_widen_its_interval():
    generator = np.random.default_rng(1)
    difference = generator.poisson(0.5, 200) - generator.poisson(0.4, 200)
    hard = generator.poisson(20, 200)
    intervals = []
    for shared in (2 + np.zeros(200), 2 + hard):
        found = draw(np.stack([shared + difference, shared], 1), np.full(200, 50), utterances(200))
        each = found.estimate([0], [1])
        intervals.append((each.low, each.high, each.p))
        assert each.value == pytest.approx(100 * difference.mean() / 50)
    assert intervals[0] == pytest.approx(intervals[1])


def test_the_same_hypotheses_differ_by_nothing():
    errors = np.random.default_rng(2).poisson(1.0, (30, 1))
    each = draw(np.hstack([errors, errors]), np.full(30, 9), utterances(30)).estimate([0], [1])
    assert (each.value, each.low, each.high, each.p) == (0.0, 0.0, 0.0, 1.0)


def test_seeds_alone_have_students_interval():
    """Every sentence has the same errors, every training another number of them."""
    values = np.array([4.0, 6.0, 5.0])
    each = draw(np.tile(values, (60, 1)), np.full(60, 100), utterances(60)).estimate([0, 1, 2])
    error = values.std(ddof=1) / np.sqrt(3)
    assert each.error == pytest.approx(error)
    assert [each.low, each.high] == pytest.approx(t.interval(0.95, 2, loc=5, scale=error), rel=0.03)


def test_seeds_and_sentences_are_crossed():
    """The variances of both parts add up; what seeds do to single sentences counts once."""
    generator = np.random.default_rng(3)
    sentences, seeds = generator.normal(0, 3, (400, 1)), np.array([[-1.0, 0.0, 1.0, 0.5]])
    noise = generator.normal(0, 1, (400, 4))
    errors = 20 + sentences + seeds + noise
    each = draw(errors, np.full(400, 100), utterances(400)).estimate(range(4))
    of_sentences = errors.mean(1).var(ddof=1) / 400
    of_noise = (noise - noise.mean(1, keepdims=True)).var() * 4 / 3 / 400 / 4
    of_seeds = errors.mean(0).var(ddof=1) / 4 - of_noise
    assert each.error**2 == pytest.approx(of_sentences + of_seeds, rel=0.01)


def test_few_speakers_are_not_drawn():
    assert Groups.of(list("abcdefghi") * 3, 27).kind == "utterances"
    assert Groups.of(list("abcdefghij") * 3, 30).kind == "speakers"
    assert draw(np.ones((9, 1)), np.ones(9), utterances(9)) is None


def test_intervals_of_utterances_are_kaldialigns():
    generator = np.random.default_rng(4)
    references = [["a"] * int(length) for length in generator.integers(2, 20, 300)]
    hypotheses = [[w if generator.random() > 0.2 else "b" for w in each] for each in references]
    theirs = bootstrap_wer_ci(references, hypotheses, replications=10_000)
    errors = np.array([[each.count("b")] for each in hypotheses])
    ours = draw(errors, np.array([len(each) for each in references]), utterances(300)).estimate([0])
    assert ours.value == pytest.approx(100 * theirs["wer"], abs=0.1)  # theirs is the mean of the draws
    assert (ours.high - ours.low) / 2 == pytest.approx(100 * theirs["ci95"], rel=0.05)


def test_p_is_below_5_percent_where_the_interval_leaves_out_0():
    seen = set()
    for seed in range(30):
        generator = np.random.default_rng(seed)
        errors = generator.poisson([1.0, 1.0 + 0.02 * seed], (80, 2))
        each = draw(errors, np.full(80, 10), utterances(80), seed).estimate([0], [1])
        out = each.low > 0 or each.high < 0
        assert out == (each.p < 0.05) or abs(each.p - 0.05) < 1e-3
        seen.add(out)
    assert seen == {True, False}


def simulated(generator, seeds, spread_of_seeds):
    """Errors of a system and its control: 24 speakers of 12 utterances of 8 words."""
    shape = 24, 12, seeds
    hard = generator.normal(0, 0.6, (24, 1, 1)) + generator.normal(0, 0.6, (24, 12, 1))
    columns = []
    for spread in (0.3, 0.0):
        of_speaker = generator.normal(0, spread, (24, 1, 1))  # the two differ more on some speakers
        of_seed = generator.normal(0, spread_of_seeds, (1, 1, seeds))
        chance = 1 / (1 + np.exp(1.8 - hard - of_speaker - of_seed))
        columns.append(generator.binomial(WORDS, chance, shape).reshape(-1, seeds))
    return np.hstack(columns)


def outcomes(seeds, spread_of_seeds, groups=None, sets=200):
    """Estimates of the difference in simulated sets."""
    generator = np.random.default_rng([7, seeds])
    groups = groups or speakers(24, 12)
    columns = list(range(seeds)), list(range(seeds, 2 * seeds))
    for number in range(sets):
        errors = simulated(generator, seeds, spread_of_seeds)
        yield draw(errors, np.full(len(errors), WORDS), groups, number).estimate(*columns)


def coverage(found, truth):
    return np.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (2, 0.15), (3, 0.04)])
def test_95_percent_of_the_intervals_hold_the_truth(seeds, spread):
    """No true difference: the spread of speakers, and of seeds where there are some, is all there is."""
    covered = coverage(outcomes(seeds, spread), 0.0)
    assert 0.904 <= covered <= 0.996  # 0.95 and three standard errors of 200 sets
    if seeds == 1:
        naive = coverage(outcomes(seeds, spread, groups=utterances(24 * 12), sets=80), 0.0)
        assert naive < covered - 0.03  # single utterances are not independent


def test_a_change_that_it_says_it_can_see_is_seen_four_times_in_five():
    """Speakers to whom a change does more or less; its mean is what 0 of them would have been said to see."""
    generator = np.random.default_rng(9)

    def estimate(change):
        of_speaker = np.repeat(generator.normal(0, 0.5, 24), 5) + generator.normal(change, 1.0, 120)
        errors = np.stack([5 + of_speaker, np.full(120, 5.0)], 1)
        return draw(errors, np.full(120, 100), speakers(24, 5)).estimate([0], [1])

    able = np.mean([estimate(0.0).detectable() for _ in range(40)])
    power = np.mean([estimate(able).p < 0.05 for _ in range(200)])
    assert 0.71 <= power <= 0.89  # 0.8 and three standard errors
    assert estimate(0.0).detectable(10) > 1.2 * able  # of ten comparisons less is seen


def test_corrections_are_holms():
    errors = np.random.default_rng(5).poisson([1.0, 1.3, 1.02, 1.5], (150, 4))
    found = draw(errors, np.full(150, 10), utterances(150))
    pairs = [compare(found, {"1": 0}, {"1": at}, ("a", f"b{at}", "test", "wer")) for at in (1, 2, 3)]
    corrected = correct(pairs)
    order = np.argsort([each.difference.p for each in pairs])
    expected = np.maximum.accumulate([(3 - rank) * pairs[at].difference.p for rank, at in enumerate(order)])
    assert [corrected[at].p for at in order] == pytest.approx(np.minimum(expected, 1))
    assert all(each.comparisons == 3 for each in corrected)
    with pytest.raises(ValueError, match="no seed in common"):
        compare(found, {"1": 0}, {"2": 1}, ("a", "b", "test", "wer"))
