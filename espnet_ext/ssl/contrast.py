"""The contrastive loss InfoNCE (van den Oord et al. 2018, equation 4), on cosine similarities.

Legend: M predictions, D their size.
"""

import torch

TARGET_GRADIENTS = ("none", "positives", "all")


def info_nce(
    predicted: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 0.1,
    candidates: torch.Tensor | None = None,
    target_gradient: str = "none",
) -> torch.Tensor:
    """-log of the softmax that picks each prediction's own target among its candidates.

    Args:
        predicted: (M, D).
        targets: (M, D); row i is what prediction i should resemble, other rows are its negatives.
        temperature: cosine similarities are divided by it.
        candidates: (M, M) true where target j is a candidate of prediction i; the diagonal counts as true.
            None: all are.
        target_gradient: whether a gradient goes into the targets: `none`, `positives` (as the target
            alone, never as a negative) or `all`.

    Returns:
        (M,) losses in nats. Where all candidates are equally similar, log of their number.
    """
    predicted = torch.nn.functional.normalize(predicted.float(), dim=-1)
    targets = torch.nn.functional.normalize(targets.float(), dim=-1)
    if target_gradient == "none":
        targets = targets.detach()
    positive = (predicted * targets).sum(-1)  # (M,)
    if target_gradient == "positives":
        targets = targets.detach()
    similarity = predicted @ targets.T  # (M, M)
    if candidates is not None:
        similarity = similarity.masked_fill(~candidates, -torch.inf)
    similarity = torch.diagonal_scatter(similarity, positive)
    return torch.logsumexp(similarity / temperature, dim=-1) - positive / temperature
