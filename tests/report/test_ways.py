"""The way of decoding that systems are compared by."""

from types import SimpleNamespace

from espnet_ext.report.tables import BEST, main_ways

WHOLE, STUDENT = ("joint", "att", "ctc"), ("transducer", "ctc")


def ways(systems: dict[str, tuple], *pairs: tuple[str, str], wanted: str | None = None) -> dict[str, str]:
    tables = [
        SimpleNamespace(decoding=way, models={(name, 1): None for name, own in systems.items() if way in own})
        for way in dict.fromkeys(way for own in systems.values() for way in own)
        for _ in ("dev", "test")
    ]
    return main_ways(tables, wanted, pairs)


def test_students_with_ctc_do_not_make_everybody_be_compared_by_ctc():
    """As `make demo-all` decodes: all have CTC, and only the transducers have no joint decoding."""
    systems = dict.fromkeys(["none", "gan", f"gan{BEST}", "start"], WHOLE)
    systems |= dict.fromkeys(["student", "scratch", "other"], STUDENT)
    found = ways(systems, ("gan", "none"), ("student", "scratch"), ("absent", "none"))
    assert {found[name] for name in ("none", "gan", f"gan{BEST}", "start")} == {"joint"}
    assert {found[name] for name in ("student", "scratch", "other")} == {"transducer"}
    found = ways(systems, ("gan", "none"), ("student", "scratch"), wanted="ctc")
    assert set(found.values()) == {"ctc"}


def test_compared_systems_have_a_way_in_common():
    systems = {"none": ("ctc",), "gan": WHOLE, "long": ("joint", "ctc")}
    assert set(ways(systems, ("gan", "none"), ("long", "none")).values()) == {"ctc"}
    assert ways(systems, ("gan", "long")) == {"none": "ctc", "gan": "joint", "long": "joint"}
    # None in common: that of most, and who has not got it its own.
    assert ways({"a": ("x",), "b": ("y",), "c": ("y",)}, ("a", "b"), ("c", "b")) == {
        "a": "x",
        "b": "y",
        "c": "y",
    }
    assert ways({}) == {}
