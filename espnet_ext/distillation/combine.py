"""From teachers' embeddings to what the student learns: standardised, and combined by a fixed rule.

    sum_heads   a target and a projection of the student's a teacher; the losses are added with weights
    random      for each utterance, each time it is read, one teacher by its weight; one projection
    average     the teachers' mean by weight, after a PCA of each to one size; one projection
    concat      the teachers' numbers side by side; one projection

Nothing here has parameters that are trained: means, deviations and axes come from the training set's frames.

Legend: T frames, E size of an embedding, F size of a target.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.keys import generator

#: Name of the target of a rule that has only one.
ALL = "all"


@dataclass(frozen=True)
class Transform:
    """A fixed affine map of a teacher's embedding: (frames - mean) @ matrix, or * scale where that is all."""

    mean: torch.Tensor  # (E,)
    scale: torch.Tensor | None  # (E,)
    matrix: torch.Tensor | None  # (E, F)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """(T, E) → (T, F)."""
        centred = frames - self.mean.to(frames.device)
        if self.matrix is not None:
            return centred @ self.matrix.to(frames.device)
        return centred * self.scale.to(frames.device)


def deviation(covariance: np.ndarray) -> np.ndarray:
    """(E,) standard deviations. A dimension that never changes says nothing: it is divided by infinity."""
    found = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return np.where(found > 1e-4 * max(found.max(), 1e-30), found, np.inf)


def make_transform(summary: Mapping[str, np.ndarray], standardise: bool, size: int | None) -> Transform:
    """Standardise each dimension over the training set, then reduce to ``size`` principal axes.

    Args:
        summary: `mean` (E,) and `covariance` (E, E) of the training frames.
        standardise: mean 0 and variance 1 of each dimension.
        size: F; None keeps the dimensions.

    Raises:
        UserError: there are fewer dimensions than axes.
    """
    mean, covariance = summary["mean"], summary["covariance"]
    scale = 1 / deviation(covariance) if standardise else np.ones(len(mean))
    mean = mean if standardise or size else np.zeros(len(mean))

    def tensor(value: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(value.astype(np.float32))

    if size is None:
        return Transform(tensor(mean), tensor(scale), None)
    if size > len(mean):
        raise UserError(f"distillation_conf: size {size}: a teacher's embedding has {len(mean)} numbers")
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    axes = vectors[:, ::-1][:, :size]  # largest variance first
    # An axis has no sign of its own: its largest number is made positive, the same on every machine.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(size)])
    axes = axes / np.sqrt(max(values[::-1][:size].mean(), 1e-30))  # a mean variance of 1
    return Transform(tensor(mean), None, tensor(scale[:, None] * axes))


class Combiner:
    """A rule with its weights and maps.

    Args:
        rule: see above.
        weights: of each teacher; they add up to 1.
        summaries: of each teacher's training frames.
        standardise: see `make_transform`.
        size: F of `random` and `average`; 0 is the smallest teacher's. Where all teachers of `random` have
            that size already, their dimensions stay as they are; one teacher alone is never changed.
        seed: key of the draws of `random`.
    """

    def __init__(
        self,
        rule: str,
        weights: Mapping[str, float],
        summaries: Mapping[str, Mapping[str, np.ndarray]],
        standardise: bool = True,
        size: int = 0,
        seed: int = 0,
    ):
        self.rule, self.weights, self.seed = rule, dict(weights), seed
        sizes = {name: len(summaries[name]["mean"]) for name in weights}
        common = size or min(sizes.values())
        several = len(weights) > 1
        reduce = several and (rule == "average" or rule == "random" and set(sizes.values()) != {common})
        self.transforms = {
            name: make_transform(summaries[name], standardise, common if reduce else None) for name in weights
        }
        if rule == "sum_heads":
            self.sizes = sizes
        elif rule == "concat":
            self.sizes = {ALL: sum(sizes.values())}
        else:
            self.sizes = {ALL: common if reduce else next(iter(sizes.values()))}
        #: Weight of each target's loss.
        self.loss_weights = dict(weights) if rule == "sum_heads" else {ALL: 1.0}

    def chosen(self, *key: int | str) -> list[str]:
        """Teachers that an utterance needs: all, or the one that `random` draws for this key."""
        names = list(self.weights)
        if self.rule != "random" or len(names) == 1:
            return names
        draw = generator(self.seed, "teacher", *key).random()
        edges = np.cumsum(list(self.weights.values()))
        return [names[min(int(np.searchsorted(edges, draw, side="right")), len(names) - 1)]]

    @torch.no_grad()
    def __call__(self, frames: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Targets (T, F) by name from the embeddings (T, E) of the chosen teachers, cut to a common T."""
        length = min(len(each) for each in frames.values())
        mapped = {name: self.transforms[name](each[:length]) for name, each in frames.items()}
        if self.rule == "sum_heads":
            return mapped
        if self.rule == "concat":
            return {ALL: torch.cat(list(mapped.values()), dim=1)}
        if self.rule == "random":
            return {ALL: next(iter(mapped.values()))}
        return {ALL: sum(self.weights[name] * each for name, each in mapped.items())}
