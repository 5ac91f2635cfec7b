"""BatchNorm's running statistics, moved once an optimiser step by all its micro-batches in all processes.

By itself a BatchNorm layer moves them in every forward pass, so that they depend on how a step is cut.
"""

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from espnet_ext.train.world import World


class RunningStatistics:
    """Collects what each micro-batch did to the buffers of all BatchNorm layers.

    A layer moves its statistics r to r + m (s - r). The mean of these moves over the micro-batches, each
    from the same r, is the move of the mean of s: one update from the whole step.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]):
        layers = [m for each in modules for m in each.modules() if isinstance(m, _BatchNorm)]
        self._layers = [layer for layer in layers if layer.running_mean is not None]
        self._buffers = [b for layer in self._layers for b in (layer.running_mean, layer.running_var)]
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the statistics before a step."""
        self._before = [b.clone() for b in self._buffers]
        self._counts = [layer.num_batches_tracked.clone() for layer in self._layers]
        self._moves = [torch.zeros_like(b) for b in self._buffers]
        self._weights = [0.0] * len(self._buffers)

    @torch.no_grad()
    def collect(self, weight: float) -> None:
        """Take a micro-batch's move and put the statistics back.

        Args:
            weight: its part in the step, for instance its number of utterances.
        """
        for i, (buffer, before) in enumerate(zip(self._buffers, self._before, strict=True)):
            if not torch.equal(buffer, before):
                self._moves[i] += weight * (buffer - before)
                self._weights[i] += weight
        self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Put the statistics back to where they were before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        for layer, count in zip(self._layers, self._counts, strict=True):
            layer.num_batches_tracked.copy_(count)

    @torch.no_grad()
    def commit(self, world: World) -> None:
        """Move the statistics by the mean move of all micro-batches of all processes."""
        if not self._buffers:
            return
        weights = world.sum(torch.tensor(self._weights, dtype=torch.float64, device=world.device)).tolist()
        for buffer, move, weight in zip(self._buffers, self._moves, weights, strict=True):
            world.sum(move)
            if weight:
                buffer += (move / weight).to(buffer.dtype)
        for layer, weight in zip(self._layers, weights[::2], strict=True):
            if weight:
                layer.num_batches_tracked += 1
