"""A watch on the targets: they are fixed, so that their variance must not fall.

A target side that shrinks (a damaged shard, a teacher that gives the same for everything) makes a small loss
and a useless encoder.

Legend: B batch, T frames, F size of a target.
"""

from collections.abc import Mapping

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.world import World

#: A variance below it is no variance.
_NOTHING = 1e-8


class VarianceWatch:
    """Variance of each target over windows of steps; the first window is what later ones are held against.

    Args:
        steps: of a window.
        least: part of the first window's variance that every window must have.
        sizes: F of each target.
        device: of the targets.
    """

    def __init__(
        self, steps: int, least: float, sizes: Mapping[str, int], device: torch.device | str = "cpu"
    ):
        self.steps, self.least = steps, least
        self.first: dict[str, float] = {}
        self._zero = {
            name: torch.zeros(2, size + 1, dtype=torch.float64, device=device) for name, size in sizes.items()
        }
        # Of all targets from the start: processes that have seen none yet add up with those that have.
        self.sums = dict(self._zero)  # (2, F + 1): sums and count, squares and count

    def see(self, name: str, values: torch.Tensor, there: torch.Tensor) -> None:
        """Count the frames of (B, T, F) that are there (B, T)."""
        frames = values.detach()[there].double()  # (frames, F)
        count = torch.full((1,), float(len(frames)), dtype=torch.float64, device=frames.device)
        rows = torch.stack([torch.cat([frames.sum(0), count]), torch.cat([frames.square().sum(0), count])])
        self.sums[name] = self.sums[name] + rows

    def check(self, step: int, world: World) -> dict[str, float]:
        """After a step (from 0): at a window's end compare, and begin the next. All processes must call it.

        Returns:
            the variance of each target at a window's end, else nothing.

        Raises:
            UserError: a target's variance has fallen.
        """
        if (step + 1) % self.steps:
            return {}
        found = {}
        for name in sorted(self.sums):
            total = world.sum(self.sums[name])
            mean, square = total[:, :-1] / total[0, -1].clamp_min(1)
            found[name] = float((square - mean.square()).mean())
        self.sums = dict(self._zero)
        for name, variance in found.items():
            reference = self.first.setdefault(name, variance)
            if not variance >= max(_NOTHING, self.least * reference):  # nan too
                raise UserError(
                    f"step {step + 1}: the variance of target {name} is {variance:.3g}, it was "
                    f"{reference:.3g} in the first {self.steps} steps (least_variance {self.least:g}): the "
                    "embeddings have collapsed; make them again (stage 7), or take another layer"
                )
        return found

    def state(self) -> dict:
        """For checkpoints."""
        return {"first": dict(self.first), "sums": {n: s.cpu() for n, s in self.sums.items()}}

    def load_state(self, state: dict) -> None:
        """Take over what `state` returned."""
        self.first = dict(state["first"])
        self.sums = {name: sums.to(self._zero[name].device) for name, sums in state["sums"].items()}
