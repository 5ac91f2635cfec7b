"""The frozen quantiser of BEST-RQ (Chiu et al. 2022, section 3.1): a random projection and a random codebook.

Legend: M vectors, F their size, D size of codes, C codebooks, V codes in each.
"""

import math

import torch

from espnet_ext.train.keys import key


class RandomQuantiser(torch.nn.Module):
    """Nearest code of a random projection, by the angle between them. Nothing in it is ever trained.

    Args:
        size: F.
        code_size: D.
        codes: V.
        codebooks: C, each with a projection of its own.
        seed: key of projection and codebook. They are buffers, so that checkpoints hold them as well.
    """

    def __init__(self, size: int, code_size: int, codes: int, codebooks: int = 1, seed: int = 0):
        super().__init__()
        draw = torch.Generator().manual_seed(key(seed, "random quantiser"))
        bound = math.sqrt(6 / (size + code_size))  # Xavier
        projection = (2 * torch.rand(codebooks, size, code_size, generator=draw) - 1) * bound
        codebook = torch.randn(codebooks, codes, code_size, generator=draw)
        self.register_buffer("projection", projection)  # (C, F, D)
        self.register_buffer("codebook", torch.nn.functional.normalize(codebook, dim=-1))  # (C, V, D)

    @torch.no_grad()
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes (M, C) of vectors (M, F)."""
        # Of codes of unit length the nearest to x / |x| is the one with the largest product, whatever |x| is.
        projected = torch.einsum("mf,cfd->cmd", vectors.float(), self.projection)
        return torch.bmm(projected, self.codebook.transpose(1, 2)).argmax(-1).T  # (C, M, V) → (M, C)


def standardise(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 of each dimension over the utterance's own frames.

    Without it most frames fall into a few codes, since the projection is dominated by what all frames share.

    Args:
        features: (B, T, F), padded with anything.
        lengths: (B,) true numbers of frames.

    Returns:
        (B, T, F), zero in the padding.
    """
    inside = torch.arange(features.size(1), device=features.device) < lengths.to(features.device)[:, None]
    inside = inside.unsqueeze(-1)  # (B, T, 1)
    count = inside.sum(1, keepdim=True).clamp_min(1)
    mean = (features * inside).sum(1, keepdim=True) / count
    centred = (features - mean).masked_fill(~inside, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * (variance + 1e-5).rsqrt()
