"""The penalty: its weight γ over the training, and the operation that applies it to the shared encoder alone.

Cui, Saif et al. 2024 (BL-JUST): minimise the supervised loss over those encoders that minimise the
unsupervised one. As a penalty, min over θ, φ, η of ℓ_sup(θ, φ) + γ ℓ_unsup(θ, η) with a growing γ; the
optimal value of ℓ_unsup that is subtracted in the paper does not depend on anything trained, and so has no
gradient.
"""

from dataclasses import dataclass

import torch

from espnet_ext.errors import UserError


class _GradientScale(torch.autograd.Function):
    """Identity forward, multiplication backward."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.factor, None


def gradient_scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor`` on its way back.

    Between the encoder θ and the self-supervised head η it makes one backward pass of ℓ_unsup give γ ∇_θ and
    1 ∇_η.
    """
    return _GradientScale.apply(x, factor)


@dataclass(frozen=True)
class GammaSchedule:
    """γ_k = min(maximum, initial + k * increment), k being the joint steps or the joint epochs done before.

    Args:
        initial: γ of the first joint step.
        increment: added after each joint step or joint epoch.
        maximum: γ stays there.
        per: `step` or `epoch`.

    Raises:
        UserError: a value out of range.
    """

    initial: float = 0.0
    increment: float = 0.002
    maximum: float = 1.0
    per: str = "epoch"

    def __post_init__(self):
        for name in ("initial", "increment", "maximum"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(f"bilevel_conf gamma_{name}: {value}: expected a number of at least 0")
        if self.initial > self.maximum:
            raise UserError(
                f"bilevel_conf gamma_initial: {self.initial} is above gamma_maximum, {self.maximum}"
            )
        if self.per not in ("step", "epoch"):
            raise UserError(f"bilevel_conf gamma_per: {self.per}: expected step or epoch")

    def at(self, step: int, epoch: int) -> float:
        """γ after ``step`` joint steps and ``epoch`` whole joint epochs."""
        done = step if self.per == "step" else epoch
        return min(self.maximum, self.initial + done * self.increment)


def divide_rate_by(optimizer: torch.optim.Optimizer, divisor) -> None:
    """Have an optimiser make every step at its learning rate divided by ``divisor()`` of that moment.

    Penalty methods divide the upper level's step by γ once γ > 1. Adam does not notice a scaled loss: its
    rate has to be divided instead. The rate is put back after the step, so that schedules do not know of it.

    Args:
        optimizer: any of torch's.
        divisor: function without arguments.
    """
    rates: list = []

    def before(*_) -> None:
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        by = divisor()
        if by != 1.0:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] / by

    def after(*_) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
