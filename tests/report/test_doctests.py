"""The examples in the docstrings of scoring and reporting."""

import doctest
import importlib
import pkgutil

import pytest

import espnet_ext.report
import espnet_ext.score

MODULES = [
    module.name
    for package in (espnet_ext.score, espnet_ext.report)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
