"""Items fetched in a thread: the same ones in the same order, errors and all, and no thread left behind."""

import threading
import time

import pytest

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
