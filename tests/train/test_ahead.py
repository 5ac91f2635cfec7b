"""Items fetched in a thread: the same ones in the same order, errors and all, and no thread left behind."""

import threading
import time

import pytest

from espnet_ext.train import ahead as module
from espnet_ext.train.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


def test_same_items_in_the_same_order():
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert list(ahead(iter(()))) == []
    assert not threads()


def test_one_item_ahead_and_no_more():
    taken = []
    items = ahead(taken.append(n) or n for n in range(10))
    assert next(items) == 0
    time.sleep(0.2)
    # One that waits to be taken, and one that waits for its place.
    assert taken == [0, 1, 2]
    items.close()
    assert not threads()


def test_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("the second one is bad")

    got = ahead(items())
    assert next(got) == 1
    with pytest.raises(ValueError, match="the second one is bad"):
        next(got)
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_ends_the_thread_of_an_endless_iterator(taken):
    def items():
        number = 0
        while True:
            yield number
            number += 1

    got = ahead(items())
    for _ in range(taken):
        next(got)
    got.close()
    assert not threads()


def test_closing_does_not_wait_for_ever(monkeypatch):
    """As when a loader process was killed in the middle of a message."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    release = threading.Event()

    def items():
        yield 0
        release.wait()

    got = ahead(items())
    assert next(got) == 0
    started = time.monotonic()
    got.close()
    assert 0.15 < time.monotonic() - started < 5
    release.set()


def test_closed_by_the_collector_in_its_own_thread():
    """An abandoned generator in a cycle may be closed by any thread; its own must not wait for itself."""
    box = []

    def items():
        yield 0
        box.pop().close()
        yield 1

    box.append(ahead(items()))
    got = box[0]
    assert next(got) == 0
    del got
    until = time.monotonic() + 5
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not threads()
