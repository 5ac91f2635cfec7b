"""YAML as people write it: the later of two equal keys would win in silence."""

import pytest

from espnet_ext.errors import UserError
from espnet_ext.yamls import parse_yaml

MERGED = """
base: &base {a: 1, b: 2}
other: &other
    <<: *base
    b: 3
both: {<<: [*base, *other], a: 4}
again: *other
"""


def test_values_are_those_of_yaml():
    assert parse_yaml("", "x") is None and parse_yaml("[1, a, {b: null}]", "x") == [1, "a", {"b": None}]
    assert parse_yaml("1: a\n'1': b\n", "x") == {1: "a", "1": "b"}


def test_what_is_merged_in_may_be_overwritten():
    other = {"a": 1, "b": 3}
    assert parse_yaml(MERGED, "x") == {
        "base": {"a": 1, "b": 2},
        "other": other,
        "both": {"a": 4, "b": 2},
        "again": other,
    }


@pytest.mark.parametrize(
    "text, place",
    [
        ("a: 1\nb: 2\na: 1\n", "x.yaml:3: a"),
        ("- {a: 1, a: 2}\n", "x.yaml:1: a"),
        ("a:\n- b: 1\n- c: {d: [{e: 1,\n e: 2}]}\n", "x.yaml:4: e"),
        ("a: &x {b: 1}\nc:\n    <<: *x\n    d: 1\n    d: 2\n", "x.yaml:5: d"),
    ],
)
def test_a_key_that_stands_twice(text, place):
    with pytest.raises(UserError, match=f"^{place} stands twice in one mapping, first in line [0-9]+; "):
        parse_yaml(text, "x.yaml")


def test_a_list_that_holds_itself():
    found = parse_yaml("&x [*x]", "x")
    assert found[0] is found


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: !!python/name:os.system",
        "a: \x07",
        "a: b: c",
        "a: 2026-13-45",
        "a: !!int b",
        "a: !!bool x",
        "[" * 3000,
    ],
)
def test_what_is_no_yaml(text):
    with pytest.raises(UserError, match="^x.yaml(:[0-9])?: not YAML: "):
        parse_yaml(text, "x.yaml")
