"""ESPnet's layers, same parameters, in fewer passes over memory; a built layer is given its class here.

What a layer computes is ESPnet's up to the rounding of sums; dropout alone draws otherwise. They serve
`--padding exact`; `--padding espnet` leaves ESPnet's layers as they are.

Legend: B batch, T query frames, S key frames, D features, H heads, d features a head.
"""

import torch
from espnet.nets.pytorch_backend.conformer.swish import Swish
from espnet.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from torch.nn import functional

#: What sixteen random bits can say.
_LEVELS = 2**16


class FusedSwish(Swish):
    """x sigmoid(x) as one operation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return functional.silu(x)


class SixteenBitDropout(torch.nn.Dropout):
    """Dropout that draws sixteen random bits an element on a CPU, four times faster than torch's.

    The rate is p to the nearest 1 / 65536. The draw is torch's default generator's, as ever.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        if not self.training or not self.p:
            return x
        dropped = round(self.p * _LEVELS)
        if x.device.type != "cpu" or self.inplace or not 0 < dropped < _LEVELS:
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
        return x * keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class FusedAttention(MultiHeadedAttention):
    """Attention in heads-first order, its mask added once.

    Softmax gives masked keys exactly 0 and no gradient. Forward and backward on a CPU, torch's fused kernel
    is slower for the lengths of utterances and labels.
    """

    def forward(self, query, key, value, mask, expand_kv=False) -> torch.Tensor:
        """(B, T, D), (B, S, D), (B, S, D), mask (B, 1 or T, S) or None → (B, T, D).

        A query that sees no key gets their mean (from ESPnet zeros).
        """
        if expand_kv or (mask is not None and len(mask) != len(query)):
            return super().forward(query, key, value, mask, expand_kv)
        q, k, v = (x.flatten(0, 1) for x in self.forward_qkv(query, key, value))  # (B H, T or S, d)
        scale, keys = self.d_k**-0.5, k.transpose(1, 2)
        if mask is None:
            scores = torch.bmm(q, keys) * scale
        else:
            hidden = _hidden(mask, q.dtype).repeat_interleave(self.h, 0)  # (B H, 1 or T, S)
            scores = torch.baddbmm(hidden, q, keys, alpha=scale)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        x = torch.bmm(weights, v).view(len(query), self.h, -1, self.d_k)
        return self.linear_out(x.transpose(1, 2).flatten(2))


def _hidden(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What hides the keys where a mask is 0, added to their scores: the lowest number, elsewhere 0."""
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill_(mask.eq(0), torch.finfo(dtype).min)


class FusedRelPositionAttention(RelPositionMultiHeadedAttention):
    """Self-attention with relative positions (Dai et al. 2019, section 3.3), in heads-first order.

    One product for queries, keys and values; positions by one product a head, shifted by a view of it; the
    scale is the queries'.
    """

    def forward(self, query, key, value, pos_emb, mask) -> torch.Tensor:
        """Self-attention: query, key and value are one tensor.

        Args:
            query, key, value: (B, T, D).
            pos_emb: (1, 2 T - 1, D) embeddings of the distances T - 1 to 1 - T.
            mask: (B, 1 or T, T), or None. A query that sees no key gets their mean (from ESPnet zeros).

        Where this is not what is asked, ESPnet's own computation answers.
        """
        batch, frames, _ = query.shape
        fused = (
            key is query and value is query and not self.zero_triu and (mask is None or len(mask) == batch)
        )
        if not fused or pos_emb.shape[:2] != (1, 2 * frames - 1):
            return super().forward(query, key, value, pos_emb, mask)
        heads, width = self.h, self.d_k
        layers = self.linear_q, self.linear_k, self.linear_v
        projected = functional.linear(
            query, torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        )
        q, k, v = projected.view(batch, frames, 3, heads, width).permute(2, 3, 0, 1, 4).contiguous()
        by_content, by_position = (  # (H, B, T, d)
            (q + bias[:, None, None]) * width**-0.5 for bias in (self.pos_bias_u, self.pos_bias_v)
        )
        positions = self.linear_pos(pos_emb[0]).view(-1, heads, width).permute(1, 2, 0)  # (H, d, 2 T - 1)
        distances = torch.bmm(by_position.view(heads, -1, width), positions)  # (H, B T, 2 T - 1)
        # Query i sees key j at the distance i - j, column T - 1 - i + j: a column earlier in each row.
        row = 2 * frames - 1
        shifted = distances.as_strided(
            (heads * batch, frames, frames), (frames * row, row - 1, 1), frames - 1
        )
        scores = torch.baddbmm(
            shifted, by_content.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
        )  # (H B, T, T)
        if mask is not None:
            scores += _hidden(mask, scores.dtype).repeat(heads, 1, 1)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        x = torch.bmm(weights, v.flatten(0, 1)).view(heads, batch, frames, width)
        return self.linear_out(x.permute(1, 2, 0, 3).reshape(query.shape))


_FUSED = {
    Swish: FusedSwish,
    torch.nn.Dropout: SixteenBitDropout,
    MultiHeadedAttention: FusedAttention,
    RelPositionMultiHeadedAttention: FusedRelPositionAttention,
}


def fuse(model: torch.nn.Module) -> None:
    """Give every layer of a built model that has a fused computation that computation, in place.

    Parameters and names stay. Attention with options that ESPnet alone computes (normalised queries, flash
    attention) is left as it is.
    """
    for module in model.modules():
        fused = _FUSED.get(type(module))
        if fused is None:
            continue
        if isinstance(module, MultiHeadedAttention) and (
            module.use_sdpa or module.use_flash_attn or not isinstance(module.q_norm, torch.nn.Identity)
        ):
            continue
        module.__class__ = fused
