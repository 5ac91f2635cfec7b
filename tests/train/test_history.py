"""The record of a training's epochs."""

import pytest

from espnet_ext.train.history import History


@pytest.mark.parametrize("mode, expected", [("min", [3, 5, 1]), ("max", [1, 5, 3])])
def test_the_best_epochs_have_a_number(tmp_path, mode, expected):
    """One whose validation loss is not a number is not averaged into the model, wherever it stands."""
    values = {1: 3.0, 2: float("nan"), 3: 1.0, 4: float("nan"), 5: 2.0}
    rows = [{"epoch": epoch, "valid_loss": value} for epoch, value in values.items()]
    history = History(tmp_path, rows, False, 0)
    assert history.best("valid_loss", mode, 2) == expected[:2]
    assert history.best("valid_loss", mode, 5) == expected
    only = [row for row in rows if row["epoch"] in (2, 4)]
    assert History(tmp_path, only, False, 0).best("valid_loss", mode, 1) == [2]
