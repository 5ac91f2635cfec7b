"""The list of a training's best epochs, and what is no such list."""

import json

import pytest

from espnet_ext.errors import UserError
from espnet_ext.train.nbest import read_nbest

BY_LOSS = {"criterion": ["valid", "loss", "min"], "epochs": [2, 1]}


@pytest.mark.parametrize("more", [{}, {"criteria": [BY_LOSS, BY_LOSS]}])
def test_what_it_says(tmp_path, more):
    (tmp_path / "nbest.json").write_text(json.dumps(BY_LOSS | more))
    assert read_nbest(tmp_path) == BY_LOSS | more


@pytest.mark.parametrize(
    "text",
    [
        *("", '{"epochs": [1', "{}", "[1]", '{"epochs": [1]}'),
        *(json.dumps(BY_LOSS | {"epochs": each}) for each in ([], ["1"], [True], 1, None)),
        *(json.dumps(BY_LOSS | {"criterion": each}) for each in ("valid_loss", ["valid", "loss"], [1, 2, 3])),
        *(json.dumps(BY_LOSS | {"criteria": each}) for each in (3, [4], [{"epochs": [1]}])),
    ],
)
def test_damaged_lists_are_named(tmp_path, text):
    (tmp_path / "nbest.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path}/nbest\.json: .*(JSON|`epochs`|mapping)"):
        read_nbest(tmp_path)


def test_an_absent_list_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}/nbest\.json: cannot be read"):
        read_nbest(tmp_path)
