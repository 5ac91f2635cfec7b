"""Convolutions with gradients of their own: torch's values and gradients."""

import pytest
import torch

from espnet_ext.asr import convolutions
from espnet_ext.asr.convolutions import depthwise, subsample
from espnet_ext.asr.model import adopt

BATCH, FRAMES, SIZE = 3, 11, 12


def assert_same(found: torch.Tensor, expected: torch.Tensor, wanted: list[torch.Tensor]) -> None:
    """Equal values, and equal gradients of what is wanted, in double precision."""
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=torch.double)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 3), ((3, 2), (1, 2))])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pieces", ["one", "many"])
def test_subsampling(monkeypatch, kernel, stride, bias, pieces):
    """Values and gradients are `Conv2d`'s, also where patches are laid out in several pieces."""
    if pieces == "many":
        monkeypatch.setattr(convolutions, "_PATCHES", 1)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, kernel, stride, bias=bias).double()
    x = torch.randn(BATCH, 4, 13, 9, dtype=torch.double).to(memory_format=torch.channels_last)
    x.requires_grad_()
    expected, found = conv(x), subsample(conv, x)
    assert found.grad_fn.name().startswith("_Subsample")
    assert_same(found, expected, [x, *conv.parameters()])


def test_subsampling_gradient_by_finite_differences():
    conv = torch.nn.Conv2d(2, 3, 3, 2).double()
    x = torch.randn(2, 2, 7, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: subsample(conv, x), (x, conv.weight, conv.bias))


def test_subsampling_of_another_form_is_torchs():
    x = torch.randn(BATCH, 4, 13, 9, requires_grad=True)
    for options in ({"padding": 1}, {"dilation": 2}, {"groups": 2}):
        conv = torch.nn.Conv2d(4, 6, 3, 2, **options)
        assert torch.equal(subsample(conv, x), conv(x))


def test_subsampling_frozen_passes_the_gradient_on():
    """Parameters that are not trained cost and get nothing; what lies before them gets its gradient."""
    conv = torch.nn.Conv2d(4, 6, 3, 2).requires_grad_(False)
    x = torch.randn(BATCH, 4, 13, 9, requires_grad=True)
    subsample(conv, x).square().sum().backward()
    expected = x.grad.clone()
    x.grad = None
    conv(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert conv.weight.grad is None and conv.bias.grad is None


def test_subsampling_in_bf16_is_torchs():
    """Autocast's casts are not repeated in a gradient of one's own."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, 3, 2)
    x = torch.randn(BATCH, 4, 13, 9, requires_grad=True)
    wanted = [x, *conv.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = subsample(conv, x), conv(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.float().square().sum(), wanted),
        torch.autograd.grad(expected.float().square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_an_encoder_subsamples_so(build_asr, monkeypatch):
    """The gradient of a model's own subsampling comes from here."""
    called = []
    real = convolutions._patch_products
    monkeypatch.setattr(convolutions, "_patch_products", lambda *a: called.append(1) or real(*a))
    model = adopt(build_asr())
    features = torch.randn(2, 80, 40)
    output, _, _ = model.encoder(features, torch.tensor([80, 61]))
    output.sum().backward()
    assert called == [1]


@pytest.mark.parametrize(("width", "dilation"), [(3, 1), (15, 1), (31, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_convolution(width, dilation, bias):
    """Values and gradients are `Conv1d`'s, also where the kernel is longer than the utterance."""
    torch.manual_seed(0)
    padding = (width - 1) // 2 * dilation
    conv = torch.nn.Conv1d(SIZE, SIZE, width, 1, padding, dilation, SIZE, bias).double()
    x = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double, requires_grad=True)
    expected = conv(x.transpose(1, 2)).transpose(1, 2)
    found = depthwise(conv, x)
    assert_same(found, expected, [x, *conv.parameters()])


@pytest.mark.parametrize(("width", "padding", "dilation"), [(4, 1, 1), (4, 0, 1), (3, 1, 2), (2, 1, 3)])
def test_depthwise_convolution_that_changes_the_length(width, padding, dilation):
    """Other padding than half the kernel."""
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(SIZE, SIZE, width, 1, padding, dilation, SIZE).double()
    x = torch.randn(BATCH, FRAMES, SIZE, dtype=torch.double, requires_grad=True)
    expected, found = conv(x.transpose(1, 2)).transpose(1, 2), depthwise(conv, x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=torch.double)
    wanted = [x, *conv.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_depthwise_gradient_by_finite_differences():
    conv = torch.nn.Conv1d(2, 2, 3, padding=1, groups=2).double()
    x = torch.randn(2, 5, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: depthwise(conv, x), (x, conv.weight, conv.bias))


def test_depthwise_convolution_in_bf16():
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(SIZE, SIZE, 5, padding=2, groups=SIZE)
    x = torch.randn(BATCH, FRAMES, SIZE, requires_grad=True)
    weight = torch.randn(BATCH, FRAMES, SIZE)
    wanted = [x, *conv.parameters()]
    expected = torch.autograd.grad((depthwise(conv, x) * weight).sum(), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise(conv, x)
    assert y.dtype == torch.bfloat16
    for ours, theirs in zip(torch.autograd.grad((y * weight).sum(), wanted), expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()
