"""Rules that make one target, or a few, of several teachers' embeddings."""

import numpy as np
import pytest
import torch

from espnet_ext.distillation.combine import Combiner, deviation
from espnet_ext.distillation.options import RULES
from espnet_ext.distillation.targets import sample_summary
from espnet_ext.errors import UserError
from tests.distillation.stage1_toy import summaries


@pytest.mark.parametrize("rule", RULES)
def test_one_teacher_is_one_teacher(rule):
    """Y1: with one teacher every rule gives its standardised embedding, to the bit."""
    found = summaries({"x": 6})
    frames = torch.randn(9, 6) * 5 + 3
    combiner = Combiner(rule, {"x": 1.0}, found)
    ((target),) = combiner({"x": frames}).values()
    expected = Combiner("sum_heads", {"x": 1.0}, found)({"x": frames})["x"]
    assert torch.equal(target, expected) and list(combiner.loss_weights.values()) == [1.0]


def test_standardise_is_an_option(toy):
    """Without it targets are the embeddings as they are, of their own scale and mean."""
    found = summaries({"x": 6})
    frames = torch.randn(9, 6) * 5 + 3
    combiner = Combiner("sum_heads", {"x": 1.0}, found, standardise=False)
    assert torch.equal(combiner({"x": frames})["x"], frames)


def test_a_dimension_that_never_changes():
    """It says nothing: its target is 0, whatever rounding makes of it."""
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 1, (300, 3))
    rows[:, 1] = 4.0
    summary = {"x": sample_summary([rows])}
    frames = torch.from_numpy(rows.astype(np.float32)) + torch.tensor([0.0, 1e-3, 0.0])
    target = Combiner("sum_heads", {"x": 1.0}, summary)({"x": frames})["x"]
    assert (target[:, 1] == 0).all() and target[:, 0].std() > 0.9


def test_axes_have_one_sign():
    """The largest number of an axis is positive, whatever the machine's eigensolver gives."""
    found = summaries({"x": 6, "y": 5})
    for each in Combiner("average", {"x": 0.5, "y": 0.5}, found, size=3).transforms.values():
        scale = torch.from_numpy(deviation(found["x" if len(each.mean) == 6 else "y"]["covariance"]))
        axes = each.matrix * scale[:, None]
        assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_average_and_concat():
    """Both are fixed maps, of unit variance, of the axes with most of it, whatever the teachers' scales."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(0, 1, (4000, 3))
    data = {
        "small": hidden @ draw.normal(0, 1, (3, 6)),
        "large": 1000 * hidden @ draw.normal(0, 1, (3, 9)) + 500,
    }
    found = {name: sample_summary([rows]) for name, rows in data.items()}
    frames = {name: torch.from_numpy(rows.astype(np.float32)) for name, rows in data.items()}
    average = Combiner("average", {"small": 0.5, "large": 0.5}, found, size=3)
    target = average(frames)["all"]
    assert target.shape == (4000, 3) and average.sizes == {"all": 3}
    parts = [average.transforms[name](rows) for name, rows in frames.items()]
    torch.testing.assert_close(target, (parts[0] + parts[1]) / 2)
    uneven = Combiner("average", {"small": 0.25, "large": 0.75}, found, size=3)
    torch.testing.assert_close(uneven(frames)["all"], 0.25 * parts[0] + 0.75 * parts[1])
    for part in parts:
        assert float(part.var(0).mean()) == pytest.approx(1, rel=0.01)
        covariance = torch.cov(part.T)
        assert (covariance - covariance.diag().diag()).abs().max() < 0.05  # principal axes
    concat = Combiner("concat", {"small": 0.5, "large": 0.5}, found)(frames)["all"]
    assert concat.shape == (4000, 15)
    torch.testing.assert_close(concat.var(0), torch.ones(15), rtol=0.01, atol=0.01)
    for each in (target, concat):
        assert each.mean(0).abs().max() < 0.01
    with pytest.raises(UserError, match="size 7"):
        Combiner("average", {"small": 0.5, "large": 0.5}, found, size=7)


def test_random_teacher():
    """Y13: as often as its weight says; the same for the same seed, pass and utterance."""
    combiner = Combiner("random", {"a": 0.2, "b": 0.7, "c": 0.1}, summaries({"a": 4, "b": 4, "c": 4}), seed=1)
    drawn = [combiner.chosen(1, f"u{n}")[0] for n in range(4000)]
    for name, weight in combiner.weights.items():
        assert abs(drawn.count(name) / 4000 - weight) < 4 * (weight * (1 - weight) / 4000) ** 0.5
    assert drawn == [combiner.chosen(1, f"u{n}")[0] for n in range(4000)]
    assert drawn != [combiner.chosen(2, f"u{n}")[0] for n in range(4000)]
    other = Combiner("random", combiner.weights, summaries({"a": 4, "b": 4, "c": 4}), seed=2)
    assert drawn != [other.chosen(1, f"u{n}")[0] for n in range(4000)]
    frames = torch.randn(7, 4)  # of one size: nothing is mixed
    alone = Combiner("sum_heads", {"a": 1.0}, summaries({"a": 4}))({"a": frames})["a"]
    assert torch.equal(combiner({"a": frames})["all"], alone)
