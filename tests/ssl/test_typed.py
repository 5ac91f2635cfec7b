"""Values of a kind that an option does not take."""

import pytest

from espnet_ext.errors import UserError
from espnet_ext.ssl.typed import check_types

DEFAULTS = {"span": 10, "rate": 0.4, "lr": None, "divide": True, "kind": "step"}


@pytest.mark.parametrize(
    "values",
    [
        {"span": 3},
        {"rate": 1},
        {"rate": 0.5},
        {"lr": None},
        {"lr": 0.1},
        {"divide": False},
        {"kind": "x"},
        {},
    ],
)
def test_right_kinds(values):
    check_types("conf", values, DEFAULTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"span": 3.5}, "conf span: 3.5: expected a whole number"),
        ({"span": True}, "conf span: True: expected a whole number"),
        (
            {"rate": "1e-3"},
            r"conf rate: '1e-3': expected a number \(YAML reads 1e-3 as a word: write 1.0e-3\)",
        ),
        ({"rate": None}, "conf rate: None: expected a number"),
        ({"lr": "x"}, "conf lr: 'x': expected a number"),
        ({"divide": 1}, "conf divide: 1: expected true or false"),
        ({"kind": 3}, "conf kind: 3: expected a word"),
    ],
)
def test_wrong_kinds(values, message):
    with pytest.raises(UserError, match=message):
        check_types("conf", values, DEFAULTS)
