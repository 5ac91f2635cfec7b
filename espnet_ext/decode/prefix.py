"""Stacks of self-attention that are asked for one token at a time and compute only what is new.

ESPnet projects keys and values of the whole prefix anew at every step, and keeps the states of each
hypothesis apart. Here they are kept as tensors over all hypotheses, a token's from when it was read.

B: utterances, N: hypotheses of an utterance, U: tokens so far, D: features, H: heads, K: D / H, V: tokens.
"""

from collections.abc import Callable, Iterable

import torch
from torch.nn.functional import scaled_dot_product_attention

#: Keys and values of prefixes in one block, each (B, N, H, U, K).
Past = tuple[torch.Tensor, torch.Tensor]


class CachedStack:
    """Log-probabilities of the next token by a Transformer of ESPnet's; a subclass computes a block.

    Args:
        stack: the network that has the blocks, with ``normalize_before`` and ``after_norm``, in eval mode.
        blocks: of it.
        embed: prefixes (B x N, U) to vectors (B x N, U, D).
        output: vectors (B, N, D) to scores (B, N, V).
    """

    def __init__(
        self,
        stack: torch.nn.Module,
        blocks: Iterable[torch.nn.Module],
        embed: Callable[[torch.Tensor], torch.Tensor],
        output: Callable[[torch.Tensor], torch.Tensor],
    ):
        self.stack, self.blocks, self.embed, self.output = stack, list(blocks), embed, output
        self.history: list[Past] = []  # of each block

    def step(self, prefix: torch.Tensor) -> torch.Tensor:
        """Read the last token of every prefix (the ones before were read by earlier calls).

        Args:
            prefix: token ids, ``<sos>`` first (B, N, U).

        Returns:
            Log-probabilities of the next token (B, N, V).
        """
        utterances, hypotheses, length = prefix.shape
        # The whole prefix, since ESPnet's positional encodings know no offset; it costs next to nothing.
        embedded = self.embed(prefix.reshape(-1, length))
        x = embedded[:, -1].view(utterances, hypotheses, -1)  # (B, N, D)
        history = []
        for number, block in enumerate(self.blocks):
            x, past = self.block(number, block, x, self.history[number] if self.history else None)
            history.append(past)
        self.history = history
        if self.stack.normalize_before:
            x = self.stack.after_norm(x)
        return torch.log_softmax(self.output(x), dim=-1)

    def block(
        self, number: int, block: torch.nn.Module, x: torch.Tensor, past: Past | None
    ) -> tuple[torch.Tensor, Past]:
        """One block for the last position (B, N, D), as its ``forward`` computes it, and the longer past."""
        raise NotImplementedError

    def select(self, parents: torch.Tensor) -> None:
        """Continue from other hypotheses: the n-th of utterance b is now a copy of ``parents[b, n]``.

        Args:
            parents: indices of hypotheses (B, N').
        """
        rows = torch.arange(parents.size(0), device=parents.device)[:, None]
        self.history = [(key[rows, parents], value[rows, parents]) for key, value in self.history]

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these (indices (B',))."""
        self.history = [(key[utterances], value[utterances]) for key, value in self.history]


def attend_prefix(
    block: torch.nn.Module, x: torch.Tensor, past: Past | None, concat: torch.nn.Module | None
) -> tuple[torch.Tensor, Past]:
    """A block's self-attention of the newest token (B, N, D) over its own prefix, residual and norm included.

    Args:
        block: ESPnet's ``EncoderLayer`` or ``DecoderLayer``.
        x: its input.
        past: of the tokens before, None at the first.
        concat: the block's layer for ``concat_after``.

    Returns:
        (B, N, D), and the past with this token.
    """
    before, attention = block.normalize_before, block.self_attn
    query = block.norm1(x) if before else x
    shape = (*query.shape[:2], attention.h, 1, attention.d_k)
    q = attention.q_norm(attention.linear_q(query).view(shape))
    key = attention.k_norm(attention.linear_k(query).view(shape))
    value = attention.linear_v(query).view(shape)
    if past is not None:
        key = torch.cat((past[0], key), dim=3)
        value = torch.cat((past[1], value), dim=3)
    out = scaled_dot_product_attention(q, key, value)  # (B, N, H, 1, K)
    attended = attention.linear_out(out.reshape(*query.shape[:2], -1))
    if block.concat_after:
        attended = concat(torch.cat((query, attended), dim=-1))
    x = x + attended
    return (x if before else block.norm1(x)), (key, value)
