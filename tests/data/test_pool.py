"""Work in several processes."""

import doctest
import importlib
import os
import pkgutil

import pytest

import espnet_ext.data
from espnet_ext.data.pool import ordered_map
from espnet_ext.errors import UserError


def _work(number: int) -> int:
    if number == 13:
        raise UserError("item 13 is bad")
    if number == 14:
        os._exit(9)
    return number * number


@pytest.mark.parametrize("nj", [1, 2, 5])
def test_results_come_in_order(nj):
    assert list(ordered_map(_work, range(10), nj, "squares")) == [number * number for number in range(10)]
    assert list(ordered_map(_work, [], nj, "nothing")) == []


@pytest.mark.parametrize("nj", [1, 2])
def test_an_error_arrives_as_it_was_raised(nj):
    with pytest.raises(UserError, match="item 13 is bad"):
        list(ordered_map(_work, range(10, 14), nj, "squares"))


def test_a_killed_process_is_an_error_and_no_hang():
    with pytest.raises(UserError, match="squares: a process was killed"):
        list(ordered_map(_work, [1, 14, 2], 2, "squares"))


def test_number_of_processes():
    with pytest.raises(UserError, match="--nj 0"):
        list(ordered_map(_work, [1], 0, "squares"))


def test_examples_in_docstrings():
    for module in pkgutil.iter_modules(espnet_ext.data.__path__, "espnet_ext.data."):
        assert doctest.testmod(importlib.import_module(module.name)).failed == 0
