"""Phases: which step comes when, and how many batches of each kind they read."""

from collections import Counter

import pytest

from espnet_ext.bilevel.options import BilevelOptions
from espnet_ext.bilevel.phases import EXPLORE, FINAL, JOINT, WARM, Phases
from espnet_ext.errors import UserError
from espnet_ext.train.method import Position

#: Steps of a labelled pass: not always the same, as in training.
STEPS = {1: 5, 2: 4, 3: 5, 4: 6, 5: 5}


def kinds(phases: Phases) -> list[str]:
    found = []
    for epoch in range(1, phases.warm + phases.joint + phases.final + 1):
        for step in range(phases.steps(epoch, STEPS[phases.labelled_pass(epoch)])):
            found.append(phases.kind(Position(epoch, step, len(found))))
    return found


def batches(phases: Phases) -> tuple[int, int]:
    count = Counter(kinds(phases))
    return count[JOINT] + count[FINAL], count[WARM] + count[EXPLORE] + count[JOINT]


def test_order_of_a_small_training():
    rounds = [EXPLORE, EXPLORE, JOINT]
    expected = [WARM] * 15 + rounds * 5 + rounds * 4 + [FINAL] * 5
    assert kinds(Phases(warm=1, joint=2, final=1, explore=2)) == expected


def test_without_exploration_every_step_is_joint():
    assert set(kinds(Phases(0, 3, 0, 0))) == {JOINT}
    assert len(kinds(Phases(0, 3, 0, 0))) == 5 + 4 + 5


def test_pretraining_then_finetuning_reads_as_many_batches_of_each_kind():
    method = Phases(warm=0, joint=4, final=1, explore=2)
    control = Phases(warm=4, joint=0, final=5, explore=2)
    assert batches(method) == batches(control) == (25, 60)


def test_labelled_passes_follow_each_other():
    phases = Phases(warm=2, joint=2, final=1, explore=1)
    assert [phases.labelled_pass(epoch) for epoch in range(3, 6)] == [1, 2, 3]
    assert phases.kinds() == [WARM, EXPLORE, JOINT, FINAL]
    assert Phases(2, 0, 3, 1).kinds() == [WARM, FINAL]


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            {"warm_epochs": 4, "final_epochs": 3},
            "warm_epochs 4 and final_epochs 3 are more than max_epoch, 5; fewer are `--bilevel_conf final_ep",
        ),
        ({"warm_epochs": -1}, "warm_epochs: -1: expected at least 0"),
        ({"final_epochs": -2}, "final_epochs: -2"),
        ({"explore_steps": -1}, "explore_steps: -1"),
        (None, "bilevel_conf: expected options as `warm_epochs: ...`, got None"),
        ({"lower_steps": 2}, "no option lower_steps; there are warm_epochs, final_epochs, explore_steps"),
        ({"phi_lr": 0.0}, "phi_lr: 0.0: expected a rate above 0, or null"),
        ({"eta_lr": float("inf")}, "eta_lr: inf"),
        ({"gamma_maximum": -1}, "gamma_maximum: -1"),
        (
            {"gamma_increment": "1e-4"},
            "gamma_increment: '1e-4': expected a number .YAML reads",
        ),
        ({"gamma_maximum": float("nan")}, "gamma_maximum: nan"),
        ({"gamma_per": "batch"}, "gamma_per: batch: expected step or epoch"),
        ({"gamma_initial": 2.0}, "gamma_initial: 2.0 is above gamma_maximum, 1.0"),
        ({"warm_epochs": 1.5}, "warm_epochs: 1.5: expected a whole number"),
        ({"divide_rate": "no"}, "divide_rate: 'no': expected true or false"),
    ],
)
def test_options_out_of_range(conf, message):
    with pytest.raises(UserError, match=message):
        BilevelOptions.from_conf(conf).phases(5)
