"""What maps a state of the recogniser to an embedding of the LM, in training alone.

Legend: D size of a state, E size of an embedding.
"""

import torch

HEADS = ("linear", "mlp")


class EmbeddingHead(torch.nn.Sequential):
    """g of `L = ... + λ d(g(s), e)`: a linear map, or one with a hidden layer halfway between both sizes.

    The hidden layer is that of Liu et al. 2020: Linear, ReLU, Linear.

    Args:
        size: of the state, D.
        target_size: of the embedding, E.
        kind: `linear` or `mlp`.
    """

    def __init__(self, size: int, target_size: int, kind: str = "linear"):
        if kind not in HEADS:
            raise ValueError(f"head {kind!r}: expected one of {', '.join(HEADS)}")
        if kind == "linear":
            super().__init__(torch.nn.Linear(size, target_size))
            return
        hidden = (size + target_size) // 2
        super().__init__(torch.nn.Linear(size, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, target_size))
