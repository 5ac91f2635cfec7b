"""Each level's optimiser: its own schedule and rate, its own phase, and γ as a divisor where it is one."""

import pytest
import torch

from espnet_ext.asr.task import ASRTask
from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.ssl.task import SSLTask

#: Schedules for all three levels that are nowhere flat, and end at a tenth.
SCHEDULES = [
    word
    for suffix in ("", "2", "3")
    for word in (f"--scheduler{suffix}", "warmupdecay", f"--scheduler{suffix}_conf", "warmup_steps=2")
    + (f"--scheduler{suffix}_conf", "final=0.1")
]


def test_every_level_s_schedule_ends_with_its_last_step(training):
    """Warm and exploration steps are one schedule's, joint steps another's, final ones the third's."""
    run = training(BilevelTask, "bilevel", *SCHEDULES, "--max_epoch", "6")  # 1 warm, 4 joint, 1 final
    rounds = run.streams["labelled"].steps(1)
    steps = {"lower": 3 * rounds + 2 * 4 * rounds, "upper": 4 * rounds, "eta": 4 * rounds, "final": rounds}
    assert steps.keys() == run.method.updaters.keys()
    for name, count in steps.items():
        (factor,) = run.method.updaters[name].scheduler.lr_lambdas
        assert factor(count) == pytest.approx(0.1), name
        assert factor(count - 1) > 0.1001, name


def test_fine_tuning_alone_is_supervised_training_at_its_rate(training, bilevel_conf, equal):
    """To the bit, with the options of `optim3` and `scheduler3`; the other levels have no optimiser."""
    control = training(ASRTask, "asr", "--optim_conf", "lr=0.003", "--max_epoch", "4")
    options = [*bilevel_conf(warm_epochs=0, final_epochs=4), "--optim3_conf", "lr=0.003"]
    options += ["--scheduler3", "warmupdecay", "--scheduler3_conf", "warmup_steps=3"]
    run = training(BilevelTask, "bilevel", *options)
    assert set(run.method.updaters) == {"final"}
    for each in (control, run):
        each.advance(8)
    assert equal(dict(control.model.state_dict()), dict(run.model.state_dict()))


def test_fine_tuning_moves_by_its_own_optimiser_alone(training, bilevel_conf, equal):
    """Fresh moments at the smaller rate; those of the joint steps, and η, stay as they were."""
    options = [*bilevel_conf(warm_epochs=0, explore_steps=0, final_epochs=1), "--max_epoch", "2"]
    run = training(BilevelTask, "bilevel", *options, "--scheduler", "none")
    run.advance(run.method.epoch_steps(1, run.streams))

    def moments(name: str) -> dict:
        state = run.method.updaters[name].optimizer.state_dict()["state"]
        return {key: {n: torch.as_tensor(v).clone() for n, v in each.items()} for key, each in state.items()}

    before = {name: moments(name) for name in ("upper", "eta")}
    eta = [p.clone() for p in run.method.objective.parameters()]
    weights = [p.detach().clone() for p in run.model.parameters()]
    assert not moments("final")
    run.advance(1)
    assert equal({name: moments(name) for name in before}, before)
    assert all(torch.equal(a, b) for a, b in zip(eta, run.method.objective.parameters(), strict=True))
    assert len(moments("final")) == len(weights)
    # Adam's first step is the rate, whatever the gradient; AdamW shrinks the weight by rate × 0.01 besides.
    moved = max(
        float((new.detach() - old * (1 - 0.001 * 0.01)).abs().max())
        for new, old in zip(run.model.parameters(), weights, strict=True)
    )
    assert moved == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(("gamma", "divides"), [(0.5, False), (1.0, False), (4.0, True)])
def test_only_above_one_gamma_divides_the_rate(training, bilevel_conf, gamma, divides):
    """For θ and for φ, if it has an optimiser of its own: a step at γ = 4 is one at a quarter of the rate."""
    alone = {"warm_epochs": 0, "final_epochs": 0, "explore_steps": 0, "gamma_increment": 0.0}
    constant = {"gamma_initial": gamma, "gamma_maximum": gamma, "eta_lr": 0.002}
    found = []
    for rate, divide in ((0.002, True), (0.002 / gamma if divides else 0.002, False)):
        options = bilevel_conf(**alone, **constant, phi_lr=rate, divide_rate=divide)
        run = training(BilevelTask, "bilevel", *options, "--optim_conf", f"lr={rate}", "--scheduler", "none")
        run.advance(1)
        found.append([p.detach() for p in run.model.parameters()])
    for divided, plain in zip(*found, strict=True):
        assert (divided - plain).abs().max() <= (1e-8 if divides else 0)


@pytest.mark.parametrize(("task", "name"), [(BilevelTask, "bilevel"), (SSLTask, "ssl")])
def test_what_looked_collapsed_is_told_to_the_report(training, task, name):
    """A warning is in the summary, and a training that goes on from a checkpoint still knows of it."""
    words = ["--ssl_conf", "least_use=0.99", "--ssl_conf", "alarm_steps=2"]
    run = training(task, name, *words)
    run.advance(3)
    (message,) = run.method.summary()["alarms"]
    assert message.startswith("step 2: bestrq looks collapsed: targets use")
    again = training(task, name, *words)
    assert again.method.summary()["alarms"] == []
    again.method.load_state(run.method.state())
    assert again.method.summary()["alarms"] == [message]
