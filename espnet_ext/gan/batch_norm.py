"""BatchNorm over the positions that are there.

Legend: B sequences, L positions, C channels.
"""

from typing import NamedTuple

import torch
from torch import nn


class Statistics(NamedTuple):
    """Mean and variance of every channel."""

    mean: torch.Tensor  # (C,)
    variance: torch.Tensor  # (C,), divided by the count


class MaskedBatchNorm(nn.Module):
    """BatchNorm in training mode whose statistics leave padding out (Ioffe & Szegedy 2015, algorithm 1).

    It keeps no running averages: whoever calls it says which sequences give the statistics. So a pass that
    must not change the critic, and a training that goes on after an interruption, need nothing special.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, values: torch.Tensor, valid: torch.Tensor, statistics: Statistics | None = None
    ) -> tuple[torch.Tensor, Statistics]:
        """Normalise every channel.

        Args:
            values: (B, L, C).
            valid: (B, L), true where there is no padding.
            statistics: use these instead of those of `values`.

        Returns:
            (B, L, C), and the statistics that were used.
        """
        if statistics is None:
            mask = valid[..., None]
            count = valid.sum().clamp(min=1)
            mean = values.masked_fill(~mask, 0.0).sum((0, 1)) / count
            variance = (values - mean).masked_fill(~mask, 0.0).square().sum((0, 1)) / count
            statistics = Statistics(mean, variance)
        scale = self.weight * torch.rsqrt(statistics.variance + self.eps)
        return (values - statistics.mean) * scale + self.bias, statistics
