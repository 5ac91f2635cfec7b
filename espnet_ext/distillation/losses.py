"""Distances of stage 1: between the student's projections and the teachers' embeddings.

Legend: B batch, T frames, D encoder's size, F size of a target, C codebooks, K = 256 codes.
"""

from collections.abc import Mapping

import torch

from espnet_ext.train.keys import key


class Heads(torch.nn.ModuleDict):
    """One linear projection of the encoder's output a target; used in stage 1 alone.

    Args:
        width: D.
        sizes: F by name.
        seed: key of the initial values: a head's own do not depend on which others there are.
    """

    def __init__(self, width: int, sizes: Mapping[str, int], seed: int = 0):
        super().__init__()
        for name, size in sizes.items():
            head = torch.nn.Linear(width, size)
            draw = torch.Generator().manual_seed(key(seed, "distillation head", name))
            with torch.no_grad():
                head.weight.uniform_(-(width**-0.5), width**-0.5, generator=draw)
                head.bias.zero_()
            self[name] = head


def valid_frames(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B, T) true where there is a frame."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def l1_sum(predicted: torch.Tensor, target: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Sum over frames of the mean over dimensions of |ĥ - e| (Yang et al. 2023, L_enc).

    Args:
        predicted, target: (B, T, F).
        there: (B, T).
    """
    return ((predicted.float() - target).abs().mean(-1) * there).sum()


def cosine_sum(predicted: torch.Tensor, target: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Sum over frames of 1 - cos(ĥ, e); arguments as `l1_sum`."""
    cosine = torch.nn.functional.cosine_similarity(predicted.float(), target, dim=-1, eps=1e-6)
    return ((1 - cosine) * there).sum()


def codes_sum(logits: torch.Tensor, codes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Sum over frames of the mean over codebooks of -log P(code) (Guo et al. 2022, icefall's MVQ-KD).

    Args:
        logits: (B, T, C * K).
        codes: (B, T, C); anything where there is no frame.
        there: (B, T).
    """
    logits = logits.float().unflatten(-1, (codes.size(-1), -1))[there]  # (frames, C, K)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), codes[there].flatten(), reduction="sum"
    ) / codes.size(-1)
