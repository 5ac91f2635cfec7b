"""Warm-up to the peak, decay to the final rate at the last step."""

import pytest
import torch
from espnet2.schedulers.warmup_lr import WarmupLR

from espnet_ext.train.method import Updater
from espnet_ext.train.schedule import WarmupDecay


def rates(**options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = WarmupDecay(optimizer, **options)
    values = []
    for _ in range(options["total_steps"]):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*values, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_shape(shape):
    values = rates(warmup_steps=4, total_steps=20, final=0.1, shape=shape)
    assert values[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert values[12] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half-way down, both shapes
    assert values[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in zip(values[4:], values[5:], strict=False))


def test_bad_options():
    with pytest.raises(ValueError, match="total_steps"):
        rates(total_steps=0)
    with pytest.raises(ValueError, match="cosine or linear"):
        rates(total_steps=5, shape="step")


def test_a_longer_training_takes_the_rate_of_its_own_schedule():
    """Resumed after 5 of 10 steps as a training of 20: at once the rate that its sixth step has."""

    def updater(total: int) -> Updater:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        return Updater(optimizer, WarmupDecay(optimizer, warmup_steps=2, total_steps=total))

    def go(each: Updater, steps: int) -> Updater:
        for _ in range(steps):
            each.optimizer.step()
            each.scheduler.step()
        return each

    resumed = updater(20)
    told = resumed.load_state(go(updater(10), 5).state())
    assert told == ["its learning rate goes on at 1.867 and was 1.389: another schedule"]
    assert updater(10).load_state(go(updater(10), 5).state()) == []
    whole = go(updater(20), 5)
    assert resumed.lr == whole.lr != go(updater(10), 5).lr
    assert go(resumed, 4).lr == go(whole, 4).lr


def test_a_schedule_by_epochs_steps_where_there_were_updates():
    """bilevel's last optimiser waits for its phase; so does its rate, also over a resume."""

    def updater() -> Updater:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
        return Updater(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))

    one, rates = updater(), []
    for worked in (False, True, False, True):
        one.optimizer.step()
        one.at_work = worked
        state, one = one.state(), updater()
        assert one.load_state(state) == []
        one.end_epoch()
        rates.append(one.lr)
    assert rates == [8.0, 4.0, 4.0, 2.0]


def test_options_of_the_optimiser_that_a_resumed_training_does_not_take_are_told():
    def updater(warmup: int, **options) -> Updater:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **options)
        return Updater(optimizer, WarmupLR(optimizer, warmup_steps=warmup) if warmup else None)

    one = updater(4, lr=2.0, weight_decay=0.1)
    for _ in range(3):
        one.optimizer.step()
        one.scheduler.step()
    other = updater(5, lr=1.0)
    assert other.load_state(one.state()) == [
        "weight_decay stays 0.1 and is not 0.01",
        "lr stays 2.0 and is not 1.0",
        "warmup_steps stays 4 and is not 5",
    ]
    assert updater(4, lr=2.0, weight_decay=0.1).load_state(one.state()) == []
    with pytest.raises(ValueError, match="its schedule WarmupLR cannot go on as none"):
        updater(0).load_state(one.state())
    with pytest.raises(ValueError, match="its schedule none cannot go on as WarmupLR"):
        updater(4).load_state(updater(0).state())
    assert updater(0, lr=3.0).load_state(updater(0, lr=4.0).state()) == ["lr stays 4.0 and is not 3.0"]
