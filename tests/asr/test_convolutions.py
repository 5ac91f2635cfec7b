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


def rectified(convs: list, x: torch.Tensor) -> torch.Tensor:
    for conv in convs:
        x = torch.relu(conv(x))
    return x


def two(kernel=3, stride=2, channels=4) -> list:
    return [torch.nn.Conv2d(channels, 6, kernel, stride), torch.nn.Conv2d(6, 5, 3, 1)]


def image(channels: int = 4, dtype=torch.double, grad: bool = True) -> torch.Tensor:
    x = torch.randn(BATCH, channels, 17, 13, dtype=dtype).to(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 3), ((3, 2), (1, 2))])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("pieces", ["one", "many"])
def test_subsampling(monkeypatch, kernel, stride, channels, pieces):
    """Values and gradients are those of `Conv2d` and `ReLU`, also where patches are laid out in pieces."""
    if pieces == "many":
        monkeypatch.setattr(convolutions, "_PATCHES", 1)
    torch.manual_seed(0)
    convs = [conv.double() for conv in two(kernel, stride, channels)]
    x = image(channels)
    expected, found = rectified(convs, x), subsample(convs, x)
    assert found.grad_fn.name().startswith("_Subsample") and 0 < (found == 0).sum() < found.numel()
    assert_same(found, expected, [x, *convs[0].parameters(), *convs[1].parameters()])


def test_subsampling_keeps_what_is_not_a_number():
    """A step is skipped for it, with the utterance's name; zeros would be trained on."""
    x = image(dtype=torch.float32, grad=False)
    x[1, 2, 5, 5] = float("nan")
    found = subsample(two(), x)
    assert found[1].isnan().any() and found[[0, 2]].isfinite().all()


def test_subsampling_gradient_by_finite_differences():
    torch.manual_seed(0)
    convs = [torch.nn.Conv2d(2, 3, 3, 2).double(), torch.nn.Conv2d(3, 2, 2, 1).double()]
    x = torch.randn(2, 2, 7, 7, dtype=torch.double, requires_grad=True)
    parameters = [*convs[0].parameters(), *convs[1].parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: subsample(convs, x), (x, *parameters))


def test_subsampling_of_another_form_is_torchs():
    x = image(dtype=torch.float32)
    for options in ({"padding": 1}, {"dilation": 2}, {"groups": 2}, {"bias": False}):
        conv = torch.nn.Conv2d(4, 6, 3, 2, **options)
        found = subsample([conv], x)
        assert torch.equal(found, rectified([conv], x)) and "_Subsample" not in found.grad_fn.name()


@pytest.mark.parametrize("trained", [[], [0], [1], ["x"], ["x", 1]])
def test_subsampling_gives_gradient_to_what_is_trained_alone(trained):
    """Parameters that are frozen cost and get nothing; what lies before them gets its gradient."""
    torch.manual_seed(0)
    convs, x = [conv.double() for conv in two()], image(grad="x" in trained)
    for number, conv in enumerate(convs):
        conv.requires_grad_(number in trained)
    everything = [x, *convs[0].parameters(), *convs[1].parameters()]
    wanted = [tensor for tensor in everything if tensor.requires_grad]
    found = subsample(convs, x)
    assert found.requires_grad == bool(wanted)
    if wanted:
        found.square().sum().backward()
        ours = [tensor.grad for tensor in everything]
        assert [grad is not None for grad in ours] == [tensor.requires_grad for tensor in everything]
        theirs = torch.autograd.grad(rectified(convs, x).square().sum(), wanted)
        for own, other in zip([grad for grad in ours if grad is not None], theirs, strict=True):
            torch.testing.assert_close(own, other)


def test_subsampling_leaves_what_it_was_given_alone():
    """Neither its input nor the gradient that comes to it is written to."""
    torch.manual_seed(0)
    convs, x = two(), image(dtype=torch.float32)
    before, y = x.detach().clone(), subsample(convs, x)
    gradient = torch.randn(y.shape).to(memory_format=torch.channels_last)
    given = gradient.clone()
    y.backward(gradient)
    assert torch.equal(gradient, given) and torch.equal(x.detach(), before)


def test_subsampling_in_bf16_is_torchs():
    """Autocast's casts are not repeated in a gradient of one's own."""
    torch.manual_seed(0)
    convs, x = two(), image(dtype=torch.float32)
    wanted = [x, *convs[0].parameters(), *convs[1].parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = subsample(convs, x), rectified(convs, x)
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
