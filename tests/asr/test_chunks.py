"""Chunks of the stand-alone transducer's encoder: which frames see which, in training and in evaluation."""

import pytest
import torch

from espnet_ext.asr.transducer import adopt
from tests.asr.test_transducer import stock

CPU = torch.device("cpu")


def encoder_of(**main):
    return adopt(stock(main={"dynamic_chunk_training": True, **main})).encoder


@pytest.mark.parametrize(("left", "first"), [(0, [0, 0, 0, 0]), (1, [0, 0, 2, 4])])
def test_evaluation(left, first):
    """A frame sees its chunk, and all before it or so many chunks; without a chunk's size everything."""
    encoder = encoder_of(num_left_chunks=left).eval()
    assert encoder._chunk_mask(7, CPU) is None
    encoder.evaluation_chunk = 2
    seen = encoder._chunk_mask(7, CPU).logical_not()
    for frame in range(7):
        chunk = frame // 2
        expected = range(first[chunk], min(7, 2 * chunk + 2))
        assert seen[frame].nonzero()[:, 0].tolist() == list(expected), frame


def test_training_draws_their_size():
    """Short ones of all sizes, or the whole utterance; those of evaluation play no part."""
    encoder = encoder_of(short_chunk_size=3, short_chunk_threshold=0.5).train()
    encoder.evaluation_chunk = 7
    torch.manual_seed(0)
    sizes = {int(encoder._chunk_mask(20, CPU)[0].logical_not().sum()) for _ in range(60)}
    assert sizes == {1, 2, 3, 20}
    encoder.dynamic_chunk_training = False
    assert encoder._chunk_mask(20, CPU) is None
