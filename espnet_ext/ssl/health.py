"""Is the encoder still saying something? Spread of feature vectors and use of codes, watched over many steps.

Legend: M vectors, D their size, V codes.
"""

import torch

from espnet_ext.train.world import World


class Watch(torch.nn.Module):
    """Collects moments of feature vectors and counts of codes until somebody asks.

    What is collected are buffers, so that checkpoints hold them. With several processes each collects its
    own, and `read` adds them up.
    """

    def __init__(self, codes: int = 0, size: int = 1):
        """Watch ``codes`` different codes (0: none) and feature vectors of ``size`` numbers."""
        super().__init__()
        self.register_buffer("code_counts", torch.zeros(codes))
        self.register_buffer("direction_sum", torch.zeros(size))
        self.register_buffer("vectors", torch.zeros(()))

    @torch.no_grad()
    def see_codes(self, codes: torch.Tensor) -> None:
        """Count codes, any shape of whole numbers below V."""
        self.code_counts += torch.bincount(codes.flatten(), minlength=self.code_counts.numel())

    @torch.no_grad()
    def see_vectors(self, vectors: torch.Tensor) -> None:
        """Take the directions of feature vectors (M, D) into account."""
        directions = torch.nn.functional.normalize(vectors.detach().float(), dim=-1)
        self.direction_sum += directions.sum(0)
        self.vectors += len(directions)

    @torch.no_grad()
    def read(self, world: World | None = None) -> tuple[float | None, float | None]:
        """(use of codes, spread of vectors) of all processes since the last call; None where nothing was
        seen.

        The use of codes is the perplexity of their distribution as a part of their number: 1 when all are
        equally frequent, 1 / V when one alone occurs. The spread is 1 - |mean direction|²: 0 when all vectors
        point the same way.
        """
        for buffer in self.buffers():
            if world is not None:
                world.sum(buffer)
        use = spread = None
        if self.code_counts.numel() and float(self.code_counts.sum()):
            use = perplexity(self.code_counts) / self.code_counts.numel()
        if float(self.vectors):
            spread = 1.0 - float((self.direction_sum / self.vectors).square().sum())
        for buffer in self.buffers():
            buffer.zero_()
        return use, spread


def perplexity(counts: torch.Tensor) -> float:
    """exp(entropy) of counts (V,): the number of equally frequent codes that would be as diverse.

    >>> round(perplexity(torch.tensor([5.0, 5.0, 0.0, 0.0])), 6)
    2.0
    """
    shares = counts.double() / counts.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
