"""The record of a training's epochs."""

import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espnet_ext.train.history import History, Means


@pytest.mark.parametrize("mode, expected", [("min", [3, 5, 1]), ("max", [1, 5, 3])])
def test_the_best_epochs_have_a_number(tmp_path, mode, expected):
    """One whose validation loss is not a number is not averaged into the model, wherever it stands."""
    values = {1: 3.0, 2: float("nan"), 3: 1.0, 4: float("nan"), 5: 2.0}
    rows = [{"epoch": epoch, "valid_loss": value} for epoch, value in values.items()]
    history = History(tmp_path, rows, False, 0)
    assert history.best("valid_loss", mode, 2) == expected[:2]
    assert history.best("valid_loss", mode, 5) == expected
    same = [{"epoch": epoch, "valid_loss": 1.0} for epoch in (1, 2, 3)]
    assert History(tmp_path, same, False, 0).best("valid_loss", mode, 2) == [1, 2]
    only = [row for row in rows if row["epoch"] in (2, 4)]
    assert History(tmp_path, only, False, 0).best("valid_loss", mode, 1) == [2]


def test_a_resumed_record_goes_back_to_its_checkpoint(tmp_path):
    """What a killed run wrote after its last checkpoint is in neither the CSV nor tensorboard."""
    row = {"epoch": 1, "step": 4, "valid_loss": 2.0}
    killed = History(tmp_path, [row], True, 4)
    for step in range(5, 9):
        killed.log(step, {"loss": 100.0 + step})
    killed.add({"epoch": 2, "step": 8, "valid_loss": 9.0})
    resumed = History(tmp_path, [row], True, 6)
    resumed.write()
    assert [each["epoch"] for each in csv.DictReader((tmp_path / "history.csv").open())] == ["1"]
    resumed.log(7, {"loss": 7.0})
    resumed.add({"epoch": 2, "step": 8, "valid_loss": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(5, 105.0), (6, 106.0), (7, 7.0)]
    assert [(e.step, e.value) for e in events.Scalars("valid_loss")] == [(8, 1.0)]
    History(tmp_path, [], False, 2).write()
    assert not (tmp_path / "history.csv").exists()


def test_means_are_weighted_and_go_on_from_their_state():
    means = Means()
    means.add({"loss": (torch.tensor(6.0), 2), "acc": (0.0, 0.0)})
    means = Means(means.state())
    means.add({"loss": (torch.tensor(2.0, requires_grad=True), 6), "norm": (5.0, 1.0)})
    assert means.means() == {"loss": 1.0, "norm": 5.0}, "a weight of nothing has no mean"
    assert means.state()["loss"] == [8.0, 8.0]
