"""Keys are stable across processes and versions, and differ with every part."""

import torch

from espnet_ext.train.data import Batch
from espnet_ext.train.keys import generator, key, seed_torch
from espnet_ext.train.method import MicroBatch, Totals


def test_key_is_a_fixed_function():
    assert key(1, "augment", 2, "utt") == key(1, "augment", 2, "utt")
    assert 0 <= key("x") < 2**63
    # Pinned: a change would silently change every training that is resumed with a new version.
    assert key(1, "a") == 9068971922568923937


def test_key_differs_with_type_order_and_cut():
    assert len({key(1, "2"), key("1", 2), key("12"), key(2, "1"), key("1", "2"), key(12)}) == 6


def test_streams_repeat():
    assert generator(3, "x").integers(0, 2**40) == generator(3, "x").integers(0, 2**40)
    seed_torch(5, "dropout", 7)
    first = torch.rand(4)
    seed_torch(5, "dropout", 7)
    assert torch.equal(first, torch.rand(4))


def test_dropout_differs_with_seed_step_micro_batch_piece_and_purpose():
    def draw(number: tuple[int, ...], purpose: str = "model", seed: int = 0) -> float:
        MicroBatch(Batch([], {}), Totals(1, 0, 1), None, number, (seed,)).seed(purpose)
        return float(torch.rand(1))

    draws = [draw(number) for number in ((0, 0), (0, 1), (1, 0), (0, 1, 0), (0, 1, 1))]
    draws += [draw((0, 0), "critic"), draw((0, 0), seed=1)]
    assert len(set(draws)) == 7 and draw((0, 1)) == draws[1]
