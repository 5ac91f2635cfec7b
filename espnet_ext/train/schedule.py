"""Learning-rate schedules that end where the training ends."""

import math

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler
from espnet2.tasks.abs_task import scheduler_classes
from torch.optim.lr_scheduler import LambdaLR

from espnet_ext.registry import register


class WarmupDecay(LambdaLR):
    """Linear warm-up to the optimiser's rate, then decay to a fraction of it at the last step.

    Args:
        optimizer: its `lr` is the peak.
        warmup_steps: optimiser steps of the warm-up.
        total_steps: optimiser steps of the whole training; the trainer fills it in from the data and
            `max_epoch` where the configuration leaves it out.
        final: rate at the end as a part of the peak.
        shape: `cosine` or `linear`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        final: float = 0.01,
        shape: str = "cosine",
        last_epoch: int = -1,
    ):
        if total_steps is None or total_steps <= 0:
            raise ValueError(f"warmupdecay needs total_steps > 0, got {total_steps}")
        if shape not in ("cosine", "linear"):
            raise ValueError(f"shape: expected cosine or linear, got {shape!r}")
        for name, value in (("warmup_steps", warmup_steps), ("final", final)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        warmup_steps = min(warmup_steps, total_steps - 1)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            left = 0.5 * (1 + math.cos(math.pi * done)) if shape == "cosine" else 1 - done
            return final + (1 - final) * left

        super().__init__(optimizer, factor, last_epoch=last_epoch)


# Else ESPnet takes it, as any LambdaLR, for one that goes by epochs.
AbsBatchStepScheduler.register(WarmupDecay)
register(scheduler_classes, "warmupdecay", WarmupDecay)
