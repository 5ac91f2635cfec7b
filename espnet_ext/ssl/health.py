"""Is the encoder still saying something? Spread of feature vectors and use of codes, watched over many steps.

Legend: M vectors, D their size, V codes.
"""

import torch

from espnet_ext.train.world import World


class Watch(torch.nn.Module):
    """Collects moments of feature vectors and counts of codes until somebody reads them.

    What was gathered is the same in all processes and stands in buffers, so that checkpoints hold it. What
    this process saw since then waits beside them for the end of the step.
    """

    def __init__(self, codes: int = 0, size: int = 1):
        """Watch ``codes`` different codes (0: none) and feature vectors of ``size`` numbers."""
        super().__init__()
        for name, shape in (("codes", (codes,)), ("directions", (size,)), ("vectors", (1,))):
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(f"new_{name}", torch.zeros(shape), persistent=False)

    @torch.no_grad()
    def see_codes(self, codes: torch.Tensor) -> None:
        """Count codes, any shape of whole numbers below V."""
        codes = codes.flatten()
        # Not bincount: it would ask a GPU for the largest code, and wait.
        self.new_codes.scatter_add_(0, codes, torch.ones_like(codes, dtype=self.new_codes.dtype))

    @torch.no_grad()
    def see_vectors(self, vectors: torch.Tensor) -> None:
        """Take the directions of feature vectors (M, D) into account."""
        self.new_directions += torch.nn.functional.normalize(vectors.detach().float(), dim=-1).sum(0)
        self.new_vectors += len(vectors)

    @torch.no_grad()
    def gather(self, world: World) -> None:
        """Add up what all processes saw in a step; all must call it."""
        names = ("codes", "directions", "vectors")
        seen = world.sum(torch.cat([getattr(self, f"new_{name}") for name in names]))
        for name, part in zip(names, seen.split([getattr(self, n).numel() for n in names]), strict=True):
            getattr(self, name).add_(part)
            getattr(self, f"new_{name}").zero_()

    @torch.no_grad()
    def read(self) -> tuple[float | None, float | None]:
        """(use of codes, spread of vectors) of what was gathered since the last call; None where nothing was.

        The use of codes is the perplexity of their distribution as a part of their number: 1 when all are
        equally frequent, 1 / V when one alone occurs. The spread is 1 - |mean direction|²: 0 when all vectors
        point the same way.
        """
        use = spread = None
        if self.codes.numel() and float(self.codes.sum()):
            use = perplexity(self.codes) / self.codes.numel()
        if float(self.vectors):
            spread = 1.0 - float((self.directions / self.vectors).square().sum())
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
