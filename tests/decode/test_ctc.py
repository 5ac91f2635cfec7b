"""CTC prefix scores and best paths against sums over all paths."""

import itertools
import math

import pytest
import torch

from espnet_ext.decode.ctc_greedy import ctc_greedy
from espnet_ext.decode.ctc_prefix import CTCPrefixScorer

BLANK = 0


def collapse(path):
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def sequence_probabilities(logp):
    """Probability of every label sequence, from all V ** T paths of log-probabilities (T, V)."""
    total = {}
    for path in itertools.product(range(logp.size(1)), repeat=logp.size(0)):
        probability = math.exp(sum(float(logp[t, token]) for t, token in enumerate(path)))
        total[collapse(path)] = total.get(collapse(path), 0.0) + probability
    return total


def prefix_probability(total, prefix):
    return sum(p for labels, p in total.items() if labels[: len(prefix)] == prefix)


@pytest.mark.parametrize("tokens", [(1,), (1, 1), (1, 2), (2, 1, 1), (1, 2, 1)])
def test_prefix_scores_are_sums_over_all_paths(tokens):
    logp = torch.randn(2, 5, 3, dtype=torch.float64).mul(2).log_softmax(-1)
    lens = torch.tensor([5, 4])
    scorer = CTCPrefixScorer(logp.clone(), lens, BLANK)
    every = [sequence_probabilities(logp[b, : lens[b]]) for b in range(2)]
    zero = torch.zeros(2, 1, dtype=torch.long)
    for length in range(len(tokens) + 1):
        prefix = tokens[:length]
        scores, ends = scorer.score(None), scorer.end()
        for b, total in enumerate(every):
            assert ends[b, 0].exp() == pytest.approx(total.get(prefix, 0.0), abs=1e-9)
            assert scores[b, 0, BLANK] == -torch.inf
            for token in (1, 2):
                expected = prefix_probability(total, (*prefix, token))
                assert scores[b, 0, token].exp() == pytest.approx(expected, abs=1e-9)
        if length < len(tokens):
            some = scorer.score(torch.full((2, 1, 1), tokens[length]))
            assert torch.equal(some[..., 0], scores[..., tokens[length]])
            scorer.select(zero, torch.full((2, 1), tokens[length]))


def test_long_utterances_lose_no_precision():
    """A running sum of log-probabilities reaches thousands; differences of neighbours must survive it."""
    from espnet.nets.ctc_prefix_score import CTCPrefixScoreTH

    logp = torch.randn(1, 1500, 20, dtype=torch.float64).mul(5).log_softmax(-1)
    stock = CTCPrefixScoreTH(logp.clone(), torch.tensor([1500]), BLANK, 19)
    ours = CTCPrefixScorer(logp, torch.tensor([1500]), BLANK)
    state, prefix = None, [19]
    for token in (3, 4, 4, 5):
        local, state = stock([torch.tensor(prefix)], state)
        assert ours.score(None)[0, 0, 1:19].tolist() == pytest.approx(state[1][0, 1:19].tolist(), rel=1e-9)
        assert float(ours.end()) == pytest.approx(float(state[1][0, 19]), rel=1e-9)
        state = stock.index_select_state(state, torch.tensor([[token]]))
        ours.select(torch.tensor([[0]]), torch.tensor([[token]]))
        prefix.append(token)


def test_impossible_labels_have_no_probability():
    logp = torch.zeros(1, 2, 3).log_softmax(-1)
    scorer = CTCPrefixScorer(logp, torch.tensor([2]), BLANK)
    scorer.select(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[1]]))
    assert scorer.score(None)[0, 0, 1] == -torch.inf  # 1 1 needs three frames
    scorer.select(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[1]]))
    assert scorer.end()[0, 0] == -torch.inf
    assert not torch.isnan(scorer.score(None)).any()


def test_greedy_reads_to_the_end_and_no_further():
    path = [1, 1, 0, 1, 2, 2, 0, 2]
    logp = torch.full((2, 8, 3), 0.05).log()
    logp[:, torch.arange(8), torch.tensor(path)] = math.log(0.9)
    whole, part = ctc_greedy(logp, torch.tensor([8, 5]), BLANK)
    assert whole.tokens == (1, 1, 2, 2) and part.tokens == (1, 1, 2)
    assert whole.score == pytest.approx(8 * math.log(0.9))
    assert part.score == pytest.approx(5 * math.log(0.9))


def test_greedy_finds_nothing_in_blanks():
    logp = torch.tensor([[[0.9, 0.1]] * 3]).log()
    assert ctc_greedy(logp, torch.tensor([3]), BLANK)[0].tokens == ()
