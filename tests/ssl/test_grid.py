"""The grid says exactly which feature frames an encoder frame is computed from."""

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.build import build_objective
from espnet_ext.ssl.grid import Grid, grid_of
from espnet_ext.train.method import Totals


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"])
def test_grid_is_what_the_input_layer_reads(build_model, input_layer):
    """A feature frame moves frame t of the input layer if and only if the grid says that t reads it."""
    model = build_model(input_layer=input_layer)
    grid = grid_of(model.encoder)
    frames = 61
    features = torch.randn(1, frames, 20, requires_grad=True)
    output, mask = model.encoder.embed(features, torch.ones(1, 1, frames, dtype=torch.bool))
    output = output[0] if isinstance(output, tuple) else output
    assert output.size(1) == int(mask.sum()) == grid.frames(frames)
    for t in (0, 1, output.size(1) - 1):
        (gradient,) = torch.autograd.grad(output[0, t].square().sum(), features, retain_graph=True)
        read = gradient[0].abs().sum(1).nonzero().flatten().tolist()
        assert read == list(range(t * grid.factor, t * grid.factor + grid.window))


def test_lengths_invert_each_other():
    grid = Grid(factor=4, window=7)
    for features in range(7, 60):
        frames = grid.frames(features)
        assert grid.features(frames) <= features < grid.features(frames + 1)
    assert grid.frames(6) == 0


def test_expected_frames_are_right_on_average():
    """Over a run of lengths that holds each remainder equally often, nothing is lost."""
    grid = Grid(factor=4, window=7)
    lengths = list(range(40, 60))
    expected = grid.expected_frames(Totals(len(lengths), 0, sum(lengths)))
    assert expected == pytest.approx(sum(grid.frames(length) for length in lengths), abs=1e-9)
    for length in lengths:
        assert abs(grid.expected_frames(Totals(1, 0, length)) - grid.frames(length)) <= 3 / 8


def test_an_encoder_that_cannot_be_masked_is_refused(build_model):
    model = build_model("transformer")
    model.encoder.embed = torch.nn.Sequential(torch.nn.Linear(20, 16))
    with pytest.raises(UserError, match="TransformerEncoder with input layer Sequential.*cannot mask it"):
        grid_of(model.encoder)
    model = build_model()
    model.encoder.embed.conv = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, 2, padding=1))
    with pytest.raises(UserError, match="cannot mask it.*use"):
        grid_of(model.encoder)


def test_an_encoder_that_subsamples_later_is_refused(build_model):
    model = build_model()
    real = model.encoder.forward
    model.encoder.forward = lambda x, n: (real(x, n)[0][:, ::2], n, None)
    with pytest.raises(UserError, match="makes 3 frames of what its input layer makes 6 of"):
        build_objective("bestrq", {}, model, None, 0)
