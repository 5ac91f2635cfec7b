"""How far a predicted embedding is from the teacher's, and how much of the teacher's it explains.

Legend: N predictions, D size of an embedding.
"""

import torch

DISTANCES = ("mse", "l1", "cosine")


def distance(prediction: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Distance of each pair of vectors (..., D), averaged over D so that it does not grow with the LM.

    Args:
        prediction, target: (..., D).
        kind: `mse` (Gaussian), `l1` (Laplace) or `cosine` (1 - cos, from 0 to 2).

    Returns:
        (...): one number a pair.
    """
    if kind == "mse":
        return (prediction - target).pow(2).mean(-1)
    if kind == "l1":
        return (prediction - target).abs().mean(-1)
    if kind == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(prediction, target, dim=-1)
    raise ValueError(f"distance {kind!r}: expected one of {', '.join(DISTANCES)}")


@torch.no_grad()
def explained(prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums for R², the part of the targets' variance that the predictions explain.

    Targets are standardised over the training set, so their mean is 0 and every dimension weighs the same.

    Args:
        prediction, target: (N, D).

    Returns:
        (explained sum of squares, total sum of squares): the first over the second is R².
    """
    total = target.pow(2).sum()
    return total - (prediction - target).pow(2).sum(), total
