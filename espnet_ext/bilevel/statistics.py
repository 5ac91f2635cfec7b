"""BatchNorm that keeps apart what it saw of labelled and of unlabelled batches.

Unlabelled batches are masked or cut, and often of other recordings: one set of running means would be right
for neither. The exported model has those of the labelled batches, and looks like any other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm

_NAMES = ("running_mean", "running_var", "num_batches_tracked")


class SeparateStatistics(torch.nn.Module):
    """A second set of running statistics for every BatchNorm layer of a module; weights stay shared.

    Args:
        module: the encoder. Without BatchNorm in it there is nothing to separate.
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        # Layers themselves, so that the loop moves their statistics once a step as it does all others.
        self.seconds = torch.nn.ModuleList(
            torch.nn.BatchNorm1d(m.num_features, m.eps, m.momentum, affine=False) for m in layers
        )
        for second, layer in zip(self.seconds, layers, strict=True):
            # Both begin with what the starting model has seen.
            second.load_state_dict({name: layer._buffers[name] for name in _NAMES})
        self.seconds.to(next(module.parameters()).device)
        self.seconds.requires_grad_(False)
        self._layers = tuple(layers)  # a tuple, not a sub-module: they belong to the encoder

    def __len__(self) -> int:
        """Number of BatchNorm layers."""
        return len(self._layers)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, the encoder uses and moves the second set."""
        first = [{name: layer._buffers[name] for name in _NAMES} for layer in self._layers]
        try:
            for layer, second in zip(self._layers, self.seconds, strict=True):
                layer._buffers.update({name: second._buffers[name] for name in _NAMES})
            yield
        finally:
            for layer, buffers in zip(self._layers, first, strict=True):
                layer._buffers.update(buffers)
