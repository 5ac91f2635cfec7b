"""A transformer decoder that is asked for one token at a time and computes only what is new.

ESPnet's ``forward_one_step`` projects keys and values of the whole memory and of the whole prefix at every
step and for every hypothesis. Here the memory's are computed once an utterance and shared by its
hypotheses, the prefix's once a token (`prefix`).

B: utterances, N: hypotheses of an utterance, T: frames, D: features, H: heads, K: D / H.
"""

from functools import partial

import torch
from espnet.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from torch.nn.functional import scaled_dot_product_attention

from espnet_ext.decode.prefix import CachedStack, attend_prefix
from espnet_ext.errors import UserError


def check_supported(decoder: torch.nn.Module) -> None:
    """Raise a UserError unless ``decoder`` is a transformer decoder with ordinary attention (or several)."""
    if hasattr(decoder, "check_supported"):
        return decoder.check_supported()
    ordinary = isinstance(decoder, BaseTransformerDecoder) and all(
        isinstance(layer.self_attn, MultiHeadedAttention)
        and isinstance(layer.src_attn, MultiHeadedAttention)
        and layer.sequential_attn is None
        for layer in decoder.decoders
    )
    if not ordinary:
        raise UserError(
            f"batched decoding knows ESPnet's `decoder: transformer`, not {type(decoder).__name__}; "
            "use `method: ctc_greedy`, or stock `python -m espnet2.bin.asr_inference` on the exported model"
        )


def cached_decoder(decoder: torch.nn.Module, memory: torch.Tensor, lens: torch.Tensor):
    """`CachedDecoder`, or what an ensemble's decoder has in its place."""
    return (decoder.cached if hasattr(decoder, "cached") else partial(CachedDecoder, decoder))(memory, lens)


class CachedDecoder(CachedStack):
    """Log-probabilities of the next token for N hypotheses of each of B utterances.

    Args:
        decoder: an ESPnet transformer decoder in eval mode.
        memory: encoder output (B, T, D).
        lens: encoder frames (B,).
    """

    def __init__(self, decoder: BaseTransformerDecoder, memory: torch.Tensor, lens: torch.Tensor):
        check_supported(decoder)
        super().__init__(decoder, decoder.decoders, decoder.embed, decoder.output_layer)
        frames = torch.arange(memory.size(1), device=memory.device)
        self.visible = (frames < lens.to(memory.device)[:, None])[:, None, None, :]  # (B, 1, 1, T)
        self.memory = [_keys_values(layer.src_attn, memory) for layer in decoder.decoders]  # 2 x (B, H, T, K)

    def block(self, number, block, x, past):
        """As ESPnet's ``DecoderLayer.forward``; see `CachedStack.block`."""
        x, past = attend_prefix(block, x, past, block.concat_linear1 if block.concat_after else None)
        before = block.normalize_before
        query = block.norm2(x) if before else x
        attended = _attend_memory(block.src_attn, query, self.memory[number], self.visible)
        if block.concat_after:
            attended = block.concat_linear2(torch.cat((query, attended), dim=-1))
        x = x + attended
        x = x if before else block.norm2(x)
        x = x + block.feed_forward(block.norm3(x) if before else x)
        return (x if before else block.norm3(x)), past

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these (indices (B',))."""
        super().keep(utterances)
        self.visible = self.visible[utterances]
        self.memory = [(key[utterances], value[utterances]) for key, value in self.memory]


def _keys_values(attention: MultiHeadedAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Projected keys and values (B, H, T, K) of ``x`` (B, T, D)."""
    shape = (*x.shape[:2], attention.h, attention.d_k)
    key = attention.k_norm(attention.linear_k(x).view(shape).transpose(1, 2))
    return key.contiguous(), attention.linear_v(x).view(shape).transpose(1, 2).contiguous()


def _attend_memory(attention, query, memory, visible):
    """Attention of hypotheses (B, N, D) over their utterance's frames: they take the place of time."""
    utterances, hypotheses, _ = query.shape
    q = attention.linear_q(query).view(utterances, hypotheses, attention.h, attention.d_k).transpose(1, 2)
    out = scaled_dot_product_attention(attention.q_norm(q), *memory, attn_mask=visible)  # (B, H, N, K)
    return attention.linear_out(out.transpose(1, 2).reshape(utterances, hypotheses, -1))
