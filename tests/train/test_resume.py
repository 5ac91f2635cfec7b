"""What a training that goes on is refused, and what it is told."""

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.resume import COMPUTATION, check, check_tensors, circumstances
from espnet_ext.train.world import World

PARTS = {"modules": ["model"], "updaters": ["model"], "streams": ["labelled"]}


class Padded(torch.nn.Module):
    """Stands for a recogniser."""

    padding_option = "exact"


@pytest.fixture
def now() -> dict:
    return circumstances(3, "fp32", World(), {}, {"model": Padded(), "critic": torch.nn.Linear(1, 1)})


def told(tmp_path, now: dict, **was) -> list[str]:
    """What is said when a checkpoint's run was as ``was`` says, None for what its version did not note."""
    run = {name: value for name, value in (now | was).items() if value is not None}
    return check(tmp_path, PARTS | {"run": run}, now, PARTS)


def test_nothing_is_said_where_all_is_as_it_was(tmp_path, now):
    assert told(tmp_path, now) == []


@pytest.mark.parametrize(
    "was, expected",
    [
        ({"threads": 0}, f"threads 0 → {torch.get_num_threads()}"),
        ({"torch": "1.0"}, f"torch 1.0 → {torch.__version__}"),
        ({"computation": None}, f"computation of an earlier version → {COMPUTATION}"),
        ({"padding": {"model": "espnet"}}, "padding {'model': 'espnet'} → {'model': 'exact'}"),
        ({"processes": 2, "device": "cuda"}, "processes 2 → 1; device cuda → cpu"),
    ],
)
def test_what_changed_is_told(tmp_path, now, was, expected):
    assert told(tmp_path, now, **was) == [
        f"warning: not as before the interruption: {expected}. The training goes on, but not as if it had "
        "never been interrupted"
    ]


def test_another_seed_is_refused(tmp_path, now):
    with pytest.raises(UserError, match="was trained with seed 4, not 3; use another experiment"):
        told(tmp_path, now, seed=4)


@pytest.mark.parametrize("what", PARTS)
def test_other_parts_are_refused(tmp_path, now, what):
    state = PARTS | {"run": now, what: ["model", "head"]}
    with pytest.raises(UserError, match=f"its checkpoint has the {what} head, model, this training "):
        check(tmp_path, state, now, PARTS)


def test_tensors_that_do_not_fit_are_listed(tmp_path):
    saved = {"a": torch.zeros(3, 2), "b": torch.zeros(1), "c": torch.zeros(2)}
    model = torch.nn.ParameterDict({"a": torch.zeros(5, 2), "c": torch.zeros(2), "d": torch.zeros(1)})
    expected = r"3 tensors .*: a \(\(3, 2\) against \(5, 2\)\), b \(not in the model\), d \(missing\); put"
    with pytest.raises(UserError, match=expected):
        check_tensors(tmp_path, {"model": saved}, {"model": model})
    check_tensors(tmp_path, {"model": model.state_dict()}, {"model": model})
