"""Layers with fewer passes over memory: ESPnet's values and gradients, and dropout's distribution."""

import pytest
import torch
from espnet.nets.pytorch_backend.conformer.swish import Swish
from espnet.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)

from espnet_ext.asr.layers import (
    FusedAttention,
    FusedRelPositionAttention,
    SixteenBitDropout,
    fuse,
)
from espnet_ext.asr.model import adopt

BATCH, FRAMES, SIZE, HEADS = 3, 11, 12, 3
LENGTHS = (11, 7, 1)


def seen(lengths=LENGTHS, frames: int = FRAMES) -> torch.Tensor:
    """(B, 1, T) true where a frame is there."""
    return (torch.arange(frames)[None] < torch.tensor(lengths)[:, None])[:, None]


@pytest.mark.parametrize("frames", [1, 2, FRAMES])
@pytest.mark.parametrize("causal", [False, True])
def test_relative_positions(frames, causal):
    torch.manual_seed(0)
    layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0).double()
    x = torch.randn(BATCH, frames, SIZE, dtype=torch.double, requires_grad=True)
    positions = torch.randn(1, 2 * frames - 1, SIZE, dtype=torch.double)
    mask = seen([min(n, frames) for n in LENGTHS], frames)
    if causal:
        mask = mask & torch.ones(frames, frames, dtype=torch.bool).tril()
    weight = torch.randn(x.shape, dtype=torch.double) * seen(
        [min(n, frames) for n in LENGTHS], frames
    ).transpose(1, 2)
    gradients = []
    for kind in (RelPositionMultiHeadedAttention, FusedRelPositionAttention):
        layer.__class__ = kind
        y = layer(x, x, x, positions, mask)
        gradients.append(
            [y.detach() * (weight != 0)]
            + list(torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()]))
        )
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_relative_positions_of_two_tensors_are_espnets():
    """Cross-attention, of which there is no fused form, is not mistaken for self-attention."""
    torch.manual_seed(0)
    layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0)
    x, memory = torch.randn(2, BATCH, FRAMES, SIZE)
    positions = torch.randn(1, 2 * FRAMES - 1, SIZE)
    expected = layer(x, memory, memory, positions, seen())
    layer.__class__ = FusedRelPositionAttention
    torch.testing.assert_close(layer(x, memory, memory, positions, seen()), expected)


def test_a_mask_for_the_whole_batch_is_espnets():
    torch.manual_seed(0)
    layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0)
    x, positions = torch.randn(BATCH, FRAMES, SIZE), torch.randn(1, 2 * FRAMES - 1, SIZE)
    expected = layer(x, x, x, positions, seen((7,)))
    layer.__class__ = FusedRelPositionAttention
    torch.testing.assert_close(layer(x, x, x, positions, seen((7,))), expected)
    with pytest.raises(RuntimeError):  # positions of another number of frames
        layer(x, x, x, positions[:, 2:], seen())


def test_relative_positions_in_bf16():
    torch.manual_seed(0)
    layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0)
    x, positions = torch.randn(BATCH, FRAMES, SIZE), torch.randn(1, 2 * FRAMES - 1, SIZE)
    expected = layer(x, x, x, positions, seen())
    layer.__class__ = FusedRelPositionAttention
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x, x, x, positions, seen())
    assert found.dtype == torch.bfloat16
    error = ((found - expected) * seen().transpose(1, 2)).abs().max()
    assert error < 0.03 * expected.abs().max()


@pytest.mark.parametrize("frames", [FRAMES, 1])
@pytest.mark.parametrize("mask", ["keys", "pairs", "none", "one for all"])
def test_attention_to_another_sequence(frames, mask):
    torch.manual_seed(0)
    layer = MultiHeadedAttention(HEADS, SIZE, 0.1).double().eval()
    query = torch.randn(BATCH, frames, SIZE, dtype=torch.double, requires_grad=True)
    memory = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double, requires_grad=True)
    weight = torch.randn(query.shape, dtype=torch.double)
    causal = torch.ones(frames, FRAMES, dtype=torch.bool).tril()
    masks = {"keys": seen(), "pairs": seen() & causal, "none": None, "one for all": seen((7,))}
    gradients = []
    for kind in (MultiHeadedAttention, FusedAttention):
        layer.__class__ = kind
        y = layer(query, memory, memory, masks[mask])
        wanted = [query, memory, *layer.parameters()]
        gradients.append([y.detach(), *torch.autograd.grad((y * weight).sum(), wanted)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["another sequence", "relative positions"])
def test_a_query_that_sees_nothing_gets_the_mean(kind):
    """No value and no gradient that is not a number, where a mask hides every key."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double, requires_grad=True)
    hidden = torch.zeros(BATCH, 1, FRAMES, dtype=torch.bool)
    if kind == "another sequence":
        layer = MultiHeadedAttention(HEADS, SIZE, 0.0).double()
        layer.__class__, inputs = FusedAttention, (x, x, x)
    else:
        layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0).double()
        layer.__class__ = FusedRelPositionAttention
        inputs = (x, x, x, torch.randn(1, 2 * FRAMES - 1, SIZE, dtype=torch.double))
    y = layer(*inputs, hidden)
    mean = layer.linear_out(layer.linear_v(x).mean(1, keepdim=True))
    torch.testing.assert_close(y, mean.expand_as(y))
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), [x, layer.linear_q.weight]))


def test_hidden_keys_are_hidden_however_loud_they_are():
    torch.manual_seed(0)
    layer = MultiHeadedAttention(HEADS, SIZE, 0.0).double()
    layer.__class__ = FusedAttention
    x = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double)
    loud = torch.where(seen().transpose(1, 2), x, 1e6 * x)
    torch.testing.assert_close(layer(x, loud, loud, seen()), layer(x, x, x, seen()))


def test_attention_to_one_sequence_for_all_is_espnets():
    """Beam search hands over keys of one utterance for a batch of hypotheses."""
    torch.manual_seed(0)
    layer = MultiHeadedAttention(HEADS, SIZE, 0.0).eval()
    x, memory = torch.randn(BATCH, 1, SIZE), torch.randn(1, FRAMES, SIZE)
    expected = layer(x, memory, memory, seen((7,)), expand_kv=True)
    layer.__class__ = FusedAttention
    torch.testing.assert_close(layer(x, memory, memory, seen((7,)), expand_kv=True), expected)
    full = torch.ones(BATCH, 1, FRAMES, dtype=torch.bool)
    torch.testing.assert_close(
        layer(x, memory, memory, full, expand_kv=True), layer(x, *[memory.expand(BATCH, -1, -1)] * 2, full)
    )


def test_dropout_of_relative_attention_is_not_lost():
    """Another draw than ESPnet's, of the same rate: the mean of many is what it is without."""
    torch.manual_seed(0)
    layer = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.5).double()
    layer.__class__ = FusedRelPositionAttention
    x = torch.randn(1, 5, SIZE, dtype=torch.double)
    positions = torch.randn(1, 9, SIZE, dtype=torch.double)
    with torch.no_grad():
        expected = layer.eval()(x, x, x, positions, None)
        many = x.expand(4000, -1, -1)
        found = layer.train()(many, many, many, positions, None)
    assert found.std(0).min() > 0.01
    assert ((found.mean(0) - expected[0]).abs() < 5 * found.std(0) / 4000**0.5).all()


def test_attention_dropout_is_not_lost():
    """Attention weights are dropped where ESPnet drops them."""
    torch.manual_seed(0)
    layer = MultiHeadedAttention(HEADS, SIZE, 0.5).double().train()
    x = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double)
    torch.manual_seed(1)
    expected = layer(x, x, x, seen())
    layer.__class__ = FusedAttention
    torch.manual_seed(1)
    torch.testing.assert_close(layer(x, x, x, seen()), expected)
    assert not torch.allclose(layer(x, x, x, seen()), expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scale(rate):
    torch.manual_seed(0)
    x = torch.ones(1000, 1003)
    y = SixteenBitDropout(rate)(x)
    dropped = (y == 0).double()
    deviation = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(dropped.mean() - rate) < 5 * deviation
    # Neighbours fall independently: also the four that one random word decides on.
    for step in (1, 2, 3, 4):
        pairs = (dropped.flatten()[step:] * dropped.flatten()[:-step]).mean()
        assert abs(pairs - rate**2) < 10 * deviation
    kept = y[y != 0]
    assert torch.all(kept == kept[0]) and abs(kept[0] - 1 / (1 - rate)) < 1e-3 / (1 - rate)


def test_dropout_goes_by_the_seed_and_its_gradient_by_the_mask():
    layer = SixteenBitDropout(0.3)
    x = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(4)
    y = layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x), y) and not torch.equal(layer(x), y)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach() / x.detach())
    assert layer.eval()(x) is x


def test_dropout_in_place_is_torchs():
    x = torch.ones(9)
    assert SixteenBitDropout(0.5, inplace=True)(x) is x and set(x.tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize(("rate", "kept"), [(0.0, True), (1.0, False)])
def test_dropout_of_nothing_and_of_everything(rate, kept):
    x = torch.randn(9)
    assert torch.equal(SixteenBitDropout(rate)(x), x if kept else torch.zeros(9))


def test_only_exact_padding_has_them(build_asr):
    """Names stay; with `padding: espnet` every layer is ESPnet's."""
    kinds = {type(module) for module in adopt(build_asr()).modules()}
    assert {FusedAttention, FusedRelPositionAttention, SixteenBitDropout} <= kinds
    assert not {MultiHeadedAttention, RelPositionMultiHeadedAttention, Swish, torch.nn.Dropout} & kinds
    upstream = {type(module) for module in adopt(build_asr(), padding="espnet").modules()}
    assert upstream & {MultiHeadedAttention, torch.nn.Dropout}
    assert not {FusedAttention, FusedRelPositionAttention, SixteenBitDropout} & upstream


def test_attention_that_espnet_alone_computes_stays():
    options = {"qk_norm": True}, {"use_sdpa": True}
    layers = torch.nn.ModuleList(MultiHeadedAttention(HEADS, SIZE, 0.0, **each) for each in options)
    fuse(layers)
    assert all(type(layer) is MultiHeadedAttention for layer in layers)
