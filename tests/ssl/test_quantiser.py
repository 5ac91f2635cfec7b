"""The random quantiser finds the nearest code and needs standardised input; the watch sees a collapse."""

import math

import pytest
import torch

from espnet_ext.ssl.health import Watch, perplexity
from espnet_ext.ssl.quantiser import RandomQuantiser, standardise
from espnet_ext.train.world import World


def read(watch: Watch):
    watch.gather(World())
    return watch.read()


def test_codes_are_the_nearest():
    quantiser = RandomQuantiser(size=12, code_size=5, codes=7, codebooks=2, seed=3)
    vectors = torch.randn(40, 12)
    codes = quantiser(vectors)
    assert codes.shape == (40, 2)
    for row, vector in enumerate(vectors):
        for book in range(2):
            projected = vector @ quantiser.projection[book]
            projected = projected / projected.norm()
            distances = (quantiser.codebook[book] - projected).norm(dim=1)
            assert codes[row, book] == distances.argmin()


def test_nothing_is_trained_and_everything_is_keyed():
    quantiser = RandomQuantiser(12, 5, 7, seed=3)
    assert list(quantiser.parameters()) == []
    assert set(quantiser.state_dict()) == {"projection", "codebook"}
    before = torch.get_rng_state()
    again, other = RandomQuantiser(12, 5, 7, seed=3), RandomQuantiser(12, 5, 7, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(again.projection, quantiser.projection)
    assert not torch.equal(other.projection, quantiser.projection)
    bound = math.sqrt(6 / 17)
    assert quantiser.projection.abs().max() <= bound
    torch.testing.assert_close(quantiser.codebook.norm(dim=-1), torch.ones(1, 7))


def test_standardise_uses_the_utterance_alone():
    features = torch.randn(2, 9, 3) * 4 + 7
    features[1, 5:] = 1e6  # padding may hold anything
    result = standardise(features, torch.tensor([9, 5]))
    for row, length in enumerate((9, 5)):
        own = features[row, :length]
        expected = (own - own.mean(0)) / (own.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(result[row, :length], expected, rtol=1e-4, atol=1e-5)
    assert (result[1, 5:] == 0).all()


def test_unnormalised_input_collapses_and_the_watch_sees_it():
    """Frames that share a large offset fall into few codes: why BEST-RQ's inputs are normalised."""
    quantiser = RandomQuantiser(20, 16, 256, seed=0)
    frames = torch.randn(1, 2000, 20)
    used = {}
    for name, vectors in (("raw", frames + 30), ("standard", standardise(frames + 30, torch.tensor([2000])))):
        watch = Watch(256, 1)
        watch.see_codes(quantiser(vectors[0]))
        used[name], _ = read(watch)
    assert used["standard"] > 0.5 and used["raw"] < 0.05


def test_use_and_spread_have_their_extreme_values():
    watch = Watch(codes=8, size=4)
    assert read(watch) == (None, None)
    watch.see_codes(torch.arange(8))
    watch.see_vectors(torch.cat([torch.eye(4), -torch.eye(4)]))
    use, spread = read(watch)
    assert use == pytest.approx(1.0) and spread == pytest.approx(1.0)
    watch.see_codes(torch.full((9,), 3))
    watch.see_vectors(torch.tensor([1.0, 2.0, 0.0, 1.0]) * torch.tensor([[1.0], [5.0]]))
    use, spread = read(watch)
    assert use == pytest.approx(1 / 8) and spread == pytest.approx(0.0, abs=1e-6)
    assert read(watch) == (None, None)  # reading forgets


def test_perplexity_of_a_distribution():
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    bits = -(shares * shares.log2()).sum()
    assert perplexity(8 * shares) == pytest.approx(float(2**bits))
