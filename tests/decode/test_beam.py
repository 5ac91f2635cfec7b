"""The beam search against ESPnet's own, and against itself in other batches."""

import logging

import pytest
import torch

from espnet_ext.decode.beam import beam_search
from espnet_ext.decode.options import DecodeOptions

CASES = {
    "joint": {},
    "half": {"beam_size": 3, "ctc_weight": 0.5, "penalty": 0.5, "maxlenratio": 0.4, "minlenratio": 0.1},
    "attention": {"beam_size": 4, "ctc_weight": 0.0, "maxlenratio": 0.5},
    "ctc": {"beam_size": 4, "ctc_weight": 1.0},
    "one": {"beam_size": 1},
    "negative": {"penalty": -0.5, "maxlenratio": -6, "minlenratio": -2},
    "normalised": {"normalize_length": True},
}


def search(model, memory, lens, options):
    return beam_search(model.decoder, model.ctc, memory, lens, model.sos, model.eos, model.blank_id, options)


def espnet_search(model, memory, options):
    """Ended hypotheses of ESPnet's search, ranked: (tokens, score)."""
    from espnet.nets.batch_beam_search import BatchBeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer
    from espnet.nets.scorers.length_bonus import LengthBonus

    stock = BatchBeamSearch(
        {
            "decoder": model.decoder,
            "ctc": CTCPrefixScorer(model.ctc, model.eos),
            "length_bonus": LengthBonus(len(model.token_list)),
        },
        {"decoder": 1 - options.ctc_weight, "ctc": options.ctc_weight, "length_bonus": options.penalty},
        beam_size=options.beam_size,
        vocab_size=len(model.token_list),
        sos=model.sos,
        eos=model.eos,
        pre_beam_score_key=None if options.ctc_weight == 1 else "full",
    )
    with torch.no_grad():
        found = stock(memory, options.maxlenratio, options.minlenratio)
    spoken = [
        (
            tuple(token for token in each.yseq.tolist() if token not in (model.eos, model.blank_id)),
            float(each.score),
        )
        for each in found
    ]
    if options.normalize_length:
        # Ranked here, because ESPnet counts the second <eos> that it appends at the length limit.
        spoken.sort(key=lambda each: each[1] / (len(each[0]) + 1), reverse=True)
    return spoken


@pytest.fixture
def quiet_espnet(caplog):
    """ESPnet's search warns of every hypothesis that reaches the length limit."""
    caplog.set_level(logging.ERROR, logger="espnet")


@pytest.mark.usefixtures("quiet_espnet")
@pytest.mark.parametrize("case", CASES)
def test_equals_espnet(model, random_memory, case):
    nbest = min(3, CASES[case].get("beam_size", 5))
    options = DecodeOptions(nbest=nbest, **CASES[case])
    for seed in range(12):
        memory, lens = random_memory(seed, [(7, 15, 30, 22)[seed % 4]])
        theirs = espnet_search(model, memory[0], options)[:nbest]
        ours = search(model, memory, lens, options)[0]
        assert [each.tokens for each in ours] == [tokens for tokens, _ in theirs], seed
        for mine, (_, score) in zip(ours, theirs, strict=True):
            assert mine.score == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_alone_equals_in_any_batch(model, random_memory, case):
    options = DecodeOptions(nbest=1, **CASES[case])
    memory, lens = random_memory(5, [30, 7, 22, 15, 1, 2, 30])
    together = search(model, memory, lens, options)
    for index, length in enumerate(lens.tolist()):
        alone = search(model, memory[index : index + 1, :length], lens[index : index + 1], options)[0]
        assert alone[0].tokens == together[index][0].tokens
        assert alone[0].score == pytest.approx(together[index][0].score, abs=1e-4)


def test_every_utterance_gets_a_hypothesis_even_below_the_least_length(model, random_memory):
    memory, lens = random_memory(1, [10, 4])
    options = DecodeOptions(minlenratio=-9, maxlenratio=-3)
    assert all(found and len(found[0].tokens) <= 3 for found in search(model, memory, lens, options))


def test_length_limit_is_reported(model, random_memory):
    memory, lens = random_memory(2, [30, 30, 30])
    found = search(model, memory, lens, DecodeOptions(maxlenratio=-1, nbest=5))
    assert all(each.truncated == (len(each.tokens) == 1) for each in sum(found, []))
    assert any(each.truncated for each in sum(found, []))


def test_scores_fall_along_the_nbest_list(model, random_memory):
    memory, lens = random_memory(3, [25, 12])
    for found in search(model, memory, lens, DecodeOptions(nbest=5)):
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        assert len({each.tokens for each in found}) == len(found) == 5
