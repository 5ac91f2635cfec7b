"""Language models in the beam search: against ESPnet's search with the same model and weights."""

import pytest
import torch

from espnet_ext.decode.beam import beam_search
from espnet_ext.decode.cached_lm import cached_lm
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.errors import UserError

LMS = {
    "transformer": {"embed_unit": 8, "att_unit": 16, "head": 2, "unit": 16, "layer": 2},
    "positions": {
        "pos_enc": "sinusoidal",
        "embed_unit": 8,
        "att_unit": 16,
        "head": 2,
        "unit": 16,
        "layer": 2,
    },
    "lstm": {"unit": 12, "nlayers": 2},
    "gru": {"unit": 12, "nlayers": 1, "rnn_type": "gru"},
}
CASES = {
    "joint": {"lm_weight": 0.5, "ctc_weight": 0.3, "penalty": 0.4},
    "attention": {"lm_weight": 0.7, "ctc_weight": 0.0, "beam_size": 4, "maxlenratio": 0.5},
    "ctc": {"lm_weight": 1.0, "ctc_weight": 1.0, "penalty": 1.0, "beam_size": 4},
}


def make_lm(kind: str, vocabulary: int) -> torch.nn.Module:
    from espnet2.lm.seq_rnn_lm import SequentialRNNLM
    from espnet2.lm.transformer_lm import TransformerLM

    torch.manual_seed(1)
    make = TransformerLM if kind in ("transformer", "positions") else SequentialRNNLM
    lm = make(vocabulary, **LMS[kind]).eval()
    with torch.no_grad():  # random weights give flat distributions, and a flat one changes no ranking
        lm.decoder.weight.mul_(4.0)
    return lm


def stock_search(model, lm, memory, options):
    """Ended hypotheses of ESPnet's search, ranked: (tokens, score)."""
    from espnet.nets.batch_beam_search import BatchBeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer
    from espnet.nets.scorers.length_bonus import LengthBonus

    weights = {
        "decoder": 1 - options.ctc_weight,
        "ctc": options.ctc_weight,
        "lm": options.lm_weight,
        "length_bonus": options.penalty,
    }
    search = BatchBeamSearch(
        {
            "decoder": model.decoder,
            "ctc": CTCPrefixScorer(model.ctc, model.eos),
            "lm": lm,
            "length_bonus": LengthBonus(len(model.token_list)),
        },
        weights,
        beam_size=options.beam_size,
        vocab_size=len(model.token_list),
        sos=model.sos,
        eos=model.eos,
        pre_beam_score_key=None if options.ctc_weight == 1 else "full",
    )
    with torch.no_grad():
        found = search(memory, options.maxlenratio, options.minlenratio)
    ends = (model.eos, model.blank_id)
    return [(tuple(t for t in each.yseq.tolist() if t not in ends), float(each.score)) for each in found]


@pytest.mark.parametrize("kind", LMS)
@pytest.mark.parametrize("case", CASES)
def test_equals_espnet(model, random_memory, kind, case, caplog):
    caplog.set_level("ERROR", logger="espnet")
    lm = make_lm(kind, len(model.token_list))
    options = DecodeOptions(nbest=3, **CASES[case])
    different = 0
    for seed in range(4):
        memory, lens = random_memory(seed, [(7, 15, 30, 22)[seed]])
        theirs = stock_search(model, lm, memory[0], options)[:3]
        (ours,) = search(model, memory, lens, options, lm)
        assert [each.tokens for each in ours] == [tokens for tokens, _ in theirs], seed
        for mine, (_, score) in zip(ours, theirs, strict=True):
            assert mine.score == pytest.approx(score, abs=1e-3)
        without = DecodeOptions(**{**CASES[case], "nbest": 3, "lm_weight": 0.0})
        different += search(model, memory, lens, without, None)[0][0].tokens != ours[0].tokens
    assert different, "the language model changed nothing"


def search(model, memory, lens, options, lm):
    return beam_search(
        model.decoder, model.ctc, memory, lens, model.sos, model.eos, model.blank_id, options, lm
    )


@pytest.mark.parametrize("kind", LMS)
def test_alone_equals_in_any_batch(model, random_memory, kind):
    lm = make_lm(kind, len(model.token_list))
    options = DecodeOptions(nbest=1, **CASES["joint"])
    memory, lens = random_memory(5, [30, 7, 22, 15, 1, 2, 30])
    together = search(model, memory, lens, options, lm)
    for index, length in enumerate(lens.tolist()):
        alone = search(model, memory[index : index + 1, :length], lens[index : index + 1], options, lm)[0]
        assert alone[0].tokens == together[index][0].tokens
        assert alone[0].score == pytest.approx(together[index][0].score, abs=1e-4)


def test_weight_zero_asks_no_language_model(model, random_memory):
    class Mute(torch.nn.Module):
        def forward(self, *_):
            raise AssertionError("was asked")

    memory, lens = random_memory(0, [20, 9])
    options = DecodeOptions()
    assert search(model, memory, lens, options, Mute()) == search(model, memory, lens, options, None)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="seq_rnn.*Linear"):
        cached_lm(torch.nn.Linear(2, 2))
