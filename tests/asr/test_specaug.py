"""Masks belong to the utterance: its key decides them, not its batch."""

import pytest
import torch

from espnet_ext.asr.specaug import KeyedSpecAug
from espnet_ext.errors import UserError

CONF = {
    "freq_mask_width_range": [1, 10],
    "num_freq_mask": 2,
    "time_mask_width_ratio_range": [0.05, 0.2],
    "num_time_mask": 2,
}


def test_masks_do_not_depend_on_the_batch():
    augment = KeyedSpecAug(**CONF)
    features, lengths = torch.ones(3, 100, 40), torch.tensor([100, 60, 80])
    together = augment(features, lengths, [11, 12, 13])
    alone = augment(features[1:2, :60], lengths[1:2], [12])
    assert torch.equal(together[1, :60], alone[0])
    assert not torch.equal(together[0], together[2])
    assert torch.equal(augment(features, lengths, [11, 12, 13]), together)
    assert not torch.equal(augment(features, lengths, [21, 12, 13])[0], together[0])
    assert features.eq(1).all()  # the input is left alone


def test_masks_are_bands_of_zeros_of_the_stated_widths():
    augment = KeyedSpecAug(
        freq_mask_width_range=[5, 6], num_freq_mask=1, time_mask_width_range=[7, 8], num_time_mask=1
    )
    for number in range(50):
        masked = augment(torch.ones(1, 50, 40), torch.tensor([50]), [number])[0]
        assert int((masked.sum(0) == 0).sum()) == 5
        assert int((masked.sum(1) == 0).sum()) == 7


def test_unsupported_options_are_named():
    with pytest.raises(UserError, match="apply_time_warp"):
        KeyedSpecAug(apply_time_warp=True, **CONF)
    with pytest.raises(UserError, match="replace_with_zero"):
        KeyedSpecAug(replace_with_zero=False, **CONF)
    with pytest.raises(UserError, match="one of time_mask_width_range"):
        KeyedSpecAug()
