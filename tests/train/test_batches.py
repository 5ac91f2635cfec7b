"""The plan of an epoch: every utterance once, inside the budget, the same for the same key."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.train.batches import cut, plan_epoch, plan_sorted


@pytest.fixture
def lengths() -> dict[str, int]:
    draw = np.random.default_rng(0)
    return {f"utt{number}": int(draw.integers(50, 600)) for number in range(1000)}


def test_every_utterance_once_and_within_budget(lengths):
    steps = plan_epoch(lengths, 5000, 2000, seed=1, epoch=1)
    assert sorted(u for step in steps for u in step.utterances) == sorted(lengths)
    for step in steps:
        assert max(lengths[u] for u in step.utterances) * len(step.utterances) <= 5000
        for micro_batch in step.micro_batches:
            assert max(lengths[u] for u in micro_batch) * len(micro_batch) <= 2000


def test_little_padding(lengths):
    steps = plan_epoch(lengths, 5000, 5000, seed=1, epoch=1)
    padded = sum(max(lengths[u] for u in step.utterances) * len(step.utterances) for step in steps)
    assert padded < 1.1 * sum(lengths.values())


def test_key_decides(lengths):
    plan = plan_epoch(lengths, 5000, 5000, seed=1, epoch=1)
    assert plan == plan_epoch(dict(reversed(lengths.items())), 5000, 5000, seed=1, epoch=1)
    assert plan != plan_epoch(lengths, 5000, 5000, seed=1, epoch=2)
    assert plan != plan_epoch(lengths, 5000, 5000, seed=2, epoch=1)


def test_micro_batches_do_not_change_the_steps(lengths):
    whole, cut_up = (plan_epoch(lengths, 5000, budget, seed=1, epoch=1) for budget in (5000, 700))
    assert [step.utterances for step in whole] == [step.utterances for step in cut_up]


def test_an_utterance_longer_than_the_budget_stands_alone():
    assert cut(["a", "b", "c"], {"a": 1, "b": 100, "c": 1}, 10) == [("a",), ("b",), ("c",)]


def test_sorted_plan(lengths):
    plan = plan_sorted(lengths, 3000)
    flat = [lengths[u] for batch in plan for u in batch]
    assert flat == sorted(lengths.values())


def test_nothing_to_train_on():
    with pytest.raises(UserError, match="no utterance"):
        plan_epoch({}, 10, 10, seed=0, epoch=1)
