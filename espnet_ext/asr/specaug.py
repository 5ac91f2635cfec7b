"""SpecAugment (Park et al. 2019) whose masks belong to the utterance, not to the batch.

ESPnet draws a mask's place from the padded length and its width from the batch's longest one; here each
utterance has its own key, so its masks are the same in any batch, worker or process.
"""

from collections.abc import Sequence

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.keys import generator


class KeyedSpecAug:
    """Frequency and time masks, filled with zero.

    Args:
        apply_freq_mask, freq_mask_width_range, num_freq_mask: masks over mel bins, width in [low, high).
        apply_time_mask, time_mask_width_range, time_mask_width_ratio_range, num_time_mask: masks over frames,
            width in frames or as a part of the utterance's own length.
        apply_time_warp: must be false; time warping is not implemented.

    Raises:
        UserError: an option of ESPnet's `specaug_conf` that is not supported.
    """

    def __init__(
        self,
        apply_time_warp: bool = False,
        apply_freq_mask: bool = True,
        freq_mask_width_range: int | Sequence[int] = (0, 20),
        num_freq_mask: int = 2,
        apply_time_mask: bool = True,
        time_mask_width_range: int | Sequence[int] | None = None,
        time_mask_width_ratio_range: float | Sequence[float] | None = None,
        num_time_mask: int = 2,
        **unknown,
    ):
        if unknown or apply_time_warp:
            names = ", ".join(sorted(unknown) + ["apply_time_warp"] * bool(apply_time_warp))
            raise UserError(
                f"specaug_conf: not supported with keyed masks: {names}; remove it or set it to false"
            )
        if apply_time_mask and (time_mask_width_range is None) == (time_mask_width_ratio_range is None):
            raise UserError("specaug_conf: give one of time_mask_width_range and time_mask_width_ratio_range")
        self.freq_masks = num_freq_mask if apply_freq_mask else 0
        self.freq_width = _as_range(freq_mask_width_range)
        self.time_masks = num_time_mask if apply_time_mask else 0
        self.time_width = _as_range(time_mask_width_range)
        self.time_ratio = _as_range(time_mask_width_ratio_range)

    def __call__(self, features: torch.Tensor, lengths: torch.Tensor, keys: Sequence[int]) -> torch.Tensor:
        """Mask a batch.

        Args:
            features: (B, T, D).
            lengths: (B,) true numbers of frames.
            keys: B whole numbers, one an utterance (see `espnet_ext.train.keys.key`).

        Returns:
            A masked copy, (B, T, D).
        """
        keep = np.ones(features.shape, dtype=bool)
        for row, (frames, number) in enumerate(zip(lengths.tolist(), keys, strict=True)):
            draw = generator(int(number), "specaug")
            for _ in range(self.freq_masks):
                start, stop = _interval(draw, self.freq_width, features.size(2))
                keep[row, :, start:stop] = False
            for _ in range(self.time_masks):
                width = self.time_width or tuple(int(ratio * frames) for ratio in self.time_ratio)
                start, stop = _interval(draw, width, frames)
                keep[row, start:stop] = False
        return features.masked_fill(~torch.from_numpy(keep).to(features.device), 0.0)


def _as_range(value) -> tuple | None:
    if value is None or isinstance(value, (list, tuple)):
        return tuple(value) if value is not None else None
    return (0, value)


def _interval(draw: np.random.Generator, width_range: tuple[int, int], size: int) -> tuple[int, int]:
    """A random interval inside [0, size), its width from [low, high) as in ESPnet."""
    low, high = width_range
    width = int(draw.integers(low, max(high, low + 1)))
    start = int(draw.integers(0, max(1, size - width)))
    return start, start + width
