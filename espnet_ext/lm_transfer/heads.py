"""What maps a state of the recogniser to an embedding of the LM, in training alone.

Legend: D size of a state, E size of an embedding.
"""

import torch

from espnet_ext.errors import UserError

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

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As torch's.

        Raises:
            UserError: a checkpoint of another kind of head, or of embeddings of another size.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError:
            had, has = ([list(v.shape) for v in each.values()] for each in (state_dict, self.state_dict()))
            raise UserError(
                f"the checkpoint's head of lm_transfer has parameters of {had}, this training's of {has}: "
                "head or embeddings have changed since it began; undo that, or begin anew with --resume false"
            ) from None
