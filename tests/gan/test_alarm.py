"""When the method says that training goes wrong, and what it then does."""

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.gan.alarm import Alarm, Window
from espnet_ext.gan.options import AlarmOptions, GANOptions, from_conf
from espnet_ext.train.method import Position
from espnet_ext.train.runner import StepRunner

GOOD = Window(loss=10.0, gap=1.0, distance=4.0, penalty=0.1)


def messages(windows, **options) -> list[list[str]]:
    alarm = Alarm(AlarmOptions(**{"patience": 2, **options}))
    return [alarm.check(window) for window in windows]


def with_(**values) -> Window:
    return Window(**{**vars(GOOD), **values})


@pytest.mark.parametrize(
    "bad, fine, text",
    [
        (with_(loss=11.1), with_(loss=10.9), "loss is 11.1, its best window had 10:"),
        (with_(gap=3.7), with_(gap=3.5), "saturated: it scores transcripts 3.7 above"),
        (with_(penalty=1.1), with_(penalty=0.9), "penalty is 1.1: "),
    ],
    ids=["loss", "saturation", "penalty"],
)
def test_patience(bad, fine, text):
    """One message after `patience` bad windows in a row, the next one after as many more."""
    assert messages([GOOD, fine, fine, fine, fine]) == [[]] * 5
    assert messages([GOOD, bad, fine, bad, fine]) == [[]] * 5
    first, *_, fourth, fifth = messages([GOOD, bad, bad, bad, bad])
    assert first == [] and len(fifth) == 1 and text in fifth[0]
    assert [len(each) for each in messages([GOOD, bad, bad, bad, bad])] == [0, 0, 1, 0, 1]


def test_the_best_loss_is_remembered_across_an_interruption():
    alarm = Alarm(AlarmOptions(patience=2))
    alarm.check(GOOD)
    alarm.check(with_(loss=12.0))
    again = Alarm(AlarmOptions(patience=2))
    again.load_state(alarm.state())
    assert len(again.check(with_(loss=12.0))) == 1


def test_windows_of_a_training(make_method, data, train, capfd):
    """The critic's penalty is above a tiny limit: a message at each window's end, kept for the summary."""
    method = make_method(alarm_conf={"interval": 2, "patience": 1, "penalty": 1e-9})
    train(method, data(), 4)
    out = capfd.readouterr().out
    assert [f"alarm: step {n}: the gradient penalty is" in out for n in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        True,
    ]
    assert len(method.summary()["alarms"]) == 2


def test_stop(make_method, data, train):
    method = make_method(alarm_conf={"interval": 2, "patience": 1, "penalty": 1e-9, "action": "stop"})
    with pytest.raises(UserError, match=r"step 2: the gradient penalty is .*raise lambda_gp.*has ended here"):
        train(method, data(), 4)


def test_off(make_method, data, train, capfd):
    train(make_method(alarm_conf={"interval": 1, "patience": 1, "penalty": 1e-9, "action": "off"}), data(), 2)
    assert "alarm" not in capfd.readouterr().out


def test_window_means_are_those_of_its_steps(make_method, data, train, monkeypatch):
    """Against the figures of the steps."""
    seen = []
    method = make_method(alarm_conf={"interval": 3})
    monkeypatch.setattr(method.alarm, "check", lambda window: seen.append(window) or [])
    rows = train(method, data(((0, 3), (3, 4))), 6)
    for window, steps in zip(seen, (rows[:3], rows[3:6]), strict=True):
        for name in ("gap", "distance", "penalty"):
            expected = sum(row[f"critic_{name}"] for row in steps) / len(steps)
            assert getattr(window, name) == pytest.approx(expected, rel=1e-5)
        assert window.loss == pytest.approx(sum(row["loss"] for row in steps) / len(steps), rel=1e-5)


def test_a_micro_batch_computed_again_counts_once(make_method, data, train, monkeypatch):
    """For want of memory a turn starts anew: the window has the sums of what stood, not of the attempt."""
    compute, attempts = StepRunner._compute, []

    def full_once(runner, item, done):
        attempts.append(item)
        if len(attempts) == 2:  # the second micro-batch of the recogniser's turn
            raise torch.OutOfMemoryError("full")
        compute(runner, item, done)

    monkeypatch.setattr(StepRunner, "_compute", full_once)
    method = make_method(alarm_conf={"interval": 2})
    rows = train(method, data(((0, 2), (2, 4))), 1)
    assert attempts[0].micro is attempts[2].micro, "the turn started anew"
    loss, weight, gap, _, _, pairs = method._window.tolist()
    assert (weight, pairs) == (4, 4)  # utterances, each once
    assert loss / weight == pytest.approx(rows[0]["loss"], rel=1e-5)
    assert gap / pairs == pytest.approx(rows[0]["critic_gap"], rel=1e-5)


def test_a_window_survives_a_loss_that_is_not_finite(make_method, data, train, monkeypatch):
    seen = []
    method = make_method(alarm_conf={"interval": 3})
    monkeypatch.setattr(method.alarm, "check", lambda window: seen.append(window) or [])
    stream = data()
    train(method, stream, 2)
    method._step_sums += torch.tensor([float("nan")] + 5 * [1.0])
    method.after_step(Position(1, 2, 2))
    assert len(seen) == 1 and seen[0].loss == seen[0].loss and seen[0].gap < 1e6


@pytest.mark.parametrize(
    "kind, conf, text",
    [
        (GANOptions, {"lambda_d": -1e-4}, "lambda_d: expected a number not below 0, got -0.0001"),
        (GANOptions, {"lambda_gp": -1}, "lambda_gp: expected a number not below 0, got -1"),
        (GANOptions, {"lambda_d": "much"}, "lambda_d: expected a number not below 0, got 'much'"),
        (GANOptions, {"lambda_d": float("nan")}, "lambda_d: expected a number not below 0, got nan"),
        (GANOptions, {"order": "critic"}, "order: expected fused or paper"),
        (GANOptions, {"critic_updates": 0}, "critic_updates: expected a whole number not below 1"),
        (GANOptions, {"lambda_d_warmup": 1.5}, "lambda_d_warmup: expected a whole number"),
        (GANOptions, {"smoothing": 0.6, "noise": 0.4}, "their sum must stay below 1"),
        (GANOptions, {"lamda_d": 1}, "no option 'lamda_d'; there are .*did you mean lambda_d"),
        (AlarmOptions, {"action": "ring"}, "action: expected warn, stop or off"),
        (AlarmOptions, {"interval": 0}, "interval: expected a whole number above 0"),
        (AlarmOptions, {"saturation": 0}, "saturation: expected a number above 0"),
    ],
    ids=str,
)
def test_bad_options(kind, conf, text):
    with pytest.raises(UserError, match=text):
        from_conf(kind, "conf", conf)


def test_numbers_that_yaml_takes_for_texts():
    assert from_conf(GANOptions, "gan_conf", {"lambda_d": "1e-4"}).lambda_d == 1e-4
