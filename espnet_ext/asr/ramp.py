"""A weight that grows over the training."""

from dataclasses import dataclass

from espnet_ext.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """Zero before ``start``, then linear to ``peak`` within ``steps`` optimiser steps, then constant.

    Args:
        peak: the final value.
        start: first optimiser step (counted from 0) of the growth.
        steps: length of the growth; 0 is a jump to the peak at ``start``.

    Raises:
        UserError: a negative number of steps.
    """

    peak: float
    start: int = 0
    steps: int = 0

    def __post_init__(self):
        if self.start < 0 or self.steps < 0:
            raise UserError(f"a warm-up needs numbers of steps from 0 on, got {self.start} and {self.steps}")

    def __call__(self, step: int) -> float:
        """Value at an optimiser step, counted from 0 over the whole training."""
        if step < self.start:
            return 0.0
        if step >= self.start + self.steps:
            return self.peak
        return self.peak * (step - self.start) / self.steps
