"""The cached decoder against ESPnet's forward pass, and the greedy search that uses it."""

import copy

import numpy
import pytest
import torch

from espnet_ext.decode.attention_greedy import attention_greedy
from espnet_ext.decode.cached_decoder import CachedDecoder
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.recogniser import Recogniser
from espnet_ext.errors import UserError


def decoder_of(**options):
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

    decoder = TransformerDecoder(11, 16, attention_heads=4, linear_units=32, num_blocks=2, **options).eval()
    with torch.no_grad():
        decoder.output_layer.weight.mul_(6.0)
    return decoder


@torch.no_grad()
def stock_logp(decoder, memory, lens, prefix):
    """Log-probabilities after each token of one prefix (U,), by ESPnet's own forward pass."""
    out, _ = decoder(memory, lens, prefix[None], torch.tensor([len(prefix)]))
    return out[0].log_softmax(-1)


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize_before": False}, {"concat_after": True}, {"qk_norm": True}],
    ids=lambda options: "-".join(options) or "default",
)
@torch.no_grad()
def test_cached_steps_equal_the_forward_pass(random_memory, options):
    decoder = decoder_of(**options)
    memory, lens = random_memory(0, [9, 4, 6], dim=16)
    prefixes = torch.randint(11, (3, 2, 5))
    cached = CachedDecoder(decoder, memory, lens)
    for length in range(1, 6):
        logp = cached.step(prefixes[..., :length])
        for b in range(3):
            for n in range(2):
                expected = stock_logp(
                    decoder, memory[b : b + 1, : lens[b]], lens[b : b + 1], prefixes[b, n, :length]
                )
                assert torch.allclose(logp[b, n], expected[-1], atol=1e-5)
        # now every second hypothesis goes on as a copy of the first, and the first utterance leaves
        if length == 3:
            parents = torch.tensor([[1, 1]] * 3)
            cached.select(parents)
            prefixes[:, :, :3] = prefixes[:, 1:, :3]


@torch.no_grad()
def test_utterances_can_leave(random_memory):
    decoder = decoder_of()
    memory, lens = random_memory(0, [9, 4, 6], dim=16)
    prefix = torch.randint(11, (3, 1, 4))
    cached = CachedDecoder(decoder, memory, lens)
    cached.step(prefix[..., :1])
    left = torch.tensor([0, 2])
    cached.keep(left)
    for length in (2, 3, 4):
        logp = cached.step(prefix[left, :, :length])
    expected = stock_logp(decoder, memory[2:, :6], lens[2:], prefix[2, 0])
    assert torch.allclose(logp[1, 0], expected[-1], atol=1e-5)


@torch.no_grad()
def test_greedy_takes_the_best_token_each_time(model, random_memory):
    memory, lens = random_memory(4, [20, 9, 14, 3])
    found = attention_greedy(model.decoder, memory, lens, model.sos, model.eos, model.blank_id)
    for b, hypothesis in enumerate(found):
        tokens = [model.sos, *hypothesis.tokens]
        logp = stock_logp(model.decoder, memory[b : b + 1, : lens[b]], lens[b : b + 1], torch.tensor(tokens))
        best = logp.argmax(-1).tolist()
        assert best[:-1] == list(hypothesis.tokens)
        assert hypothesis.truncated == (best[-1] != model.eos)
        expected = logp.max(-1).values[: len(hypothesis.tokens) + (not hypothesis.truncated)].sum()
        assert hypothesis.score == pytest.approx(float(expected), abs=1e-3)


@torch.no_grad()
def test_greedy_keeps_the_length_limits(model, random_memory):
    memory, lens = random_memory(4, [20, 9])
    arguments = (model.decoder, memory, lens, model.sos, model.eos, model.blank_id)
    assert all(len(each.tokens) <= 2 for each in attention_greedy(*arguments, maxlenratio=-2))
    found = attention_greedy(*arguments, maxlenratio=0.5, minlenratio=0.5)
    assert [len(each.tokens) for each in found] == [10, 4]


def exchanged(model, **parts):
    """The model with other parts; the original stays as it is."""
    other = copy.copy(model)
    other._modules = {**model._modules, **parts}
    return other


def test_other_decoders_are_refused(model):
    other = exchanged(model, decoder=torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="not Linear"):
        Recogniser(other, DecodeOptions(method="attention_greedy"))
    Recogniser(other, DecodeOptions(method="ctc_greedy"))


@pytest.mark.parametrize(
    ("absent", "method", "message"),
    [
        ("decoder", "joint", "needs an attention decoder"),
        ("decoder", "attention_greedy", "needs an attention decoder"),
        ("ctc", "joint", "needs CTC"),
        ("ctc", "ctc_greedy", "needs CTC"),
    ],
)
def test_a_missing_half_is_named(model, absent, method, message):
    with pytest.raises(UserError, match=message):
        Recogniser(exchanged(model, **{absent: None}), DecodeOptions(method=method))


@pytest.mark.parametrize(("absent", "ctc_weight"), [("decoder", 1.0), ("ctc", 0.0)])
def test_each_half_alone_is_enough(model, absent, ctc_weight):
    recogniser = Recogniser(exchanged(model, **{absent: None}), DecodeOptions(ctc_weight=ctc_weight))
    assert recogniser([torch.randn(4000).numpy()])[0]


def test_too_short_utterances_have_empty_hypotheses(model):
    recogniser = Recogniser(model, DecodeOptions())
    alone = recogniser([numpy.zeros(200, numpy.float32)])
    assert alone[0][0].tokens == ()
    assert recogniser([numpy.zeros(200, numpy.float32)] * 2) == alone * 2


def test_a_diverged_model_is_named(model):
    recogniser = Recogniser(model, DecodeOptions())
    with pytest.raises(UserError, match="NaN"):
        recogniser([numpy.full(4000, numpy.nan, numpy.float32)])
