"""A transformer decoder that is asked for one token at a time and computes only what is new.

ESPnet's ``forward_one_step`` projects keys and values of the whole memory and of the whole prefix at every
step and for every hypothesis. Here the memory's are computed once an utterance and shared by its
hypotheses, the prefix's once a token.

B: utterances, N: hypotheses of an utterance, T: frames, U: tokens so far, D: features, H: heads, K: D / H,
V: tokens.
"""

from functools import partial

import torch
from espnet.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from torch.nn.functional import scaled_dot_product_attention

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


class CachedDecoder:
    """Log-probabilities of the next token for N hypotheses of each of B utterances.

    Args:
        decoder: an ESPnet transformer decoder in eval mode.
        memory: encoder output (B, T, D).
        lens: encoder frames (B,).
    """

    def __init__(self, decoder: BaseTransformerDecoder, memory: torch.Tensor, lens: torch.Tensor):
        check_supported(decoder)
        self.decoder = decoder
        frames = torch.arange(memory.size(1), device=memory.device)
        self.visible = (frames < lens.to(memory.device)[:, None])[:, None, None, :]  # (B, 1, 1, T)
        self.memory = [_keys_values(layer.src_attn, memory) for layer in decoder.decoders]  # 2 x (B, H, T, K)
        self.history: list[tuple[torch.Tensor, torch.Tensor]] = []  # 2 x (B, N, H, U, K) a layer

    def step(self, prefix: torch.Tensor) -> torch.Tensor:
        """Read the last token of every prefix (the ones before were read by earlier calls).

        Args:
            prefix: token ids, ``<sos>`` first (B, N, U).

        Returns:
            Log-probabilities of the next token (B, N, V).
        """
        utterances, hypotheses, length = prefix.shape
        # The whole prefix, since ESPnet's positional encodings know no offset; it costs next to nothing.
        x = self.decoder.embed(prefix.reshape(-1, length))[:, -1].view(
            utterances, hypotheses, -1
        )  # (B, N, D)
        history = []
        for number, layer in enumerate(self.decoder.decoders):
            past = self.history[number] if self.history else None
            x, now = self._layer(layer, x, past, self.memory[number])
            history.append(now)
        self.history = history
        if self.decoder.normalize_before:
            x = self.decoder.after_norm(x)
        return torch.log_softmax(self.decoder.output_layer(x), dim=-1)

    def _layer(self, layer, x, past, memory):
        """One decoder block as ESPnet's DecoderLayer.forward computes it for the last position."""
        before = layer.normalize_before
        query = layer.norm1(x) if before else x
        attended, past = attend_prefix(layer.self_attn, query, past)
        if layer.concat_after:
            attended = layer.concat_linear1(torch.cat((query, attended), dim=-1))
        x = x + attended
        x = x if before else layer.norm1(x)

        query = layer.norm2(x) if before else x
        attended = _attend_memory(layer.src_attn, query, memory, self.visible)
        if layer.concat_after:
            attended = layer.concat_linear2(torch.cat((query, attended), dim=-1))
        x = x + attended
        x = x if before else layer.norm2(x)

        x = x + layer.feed_forward(layer.norm3(x) if before else x)
        return (x if before else layer.norm3(x)), past

    def select(self, parents: torch.Tensor) -> None:
        """Continue from other hypotheses: the n-th of utterance b is now a copy of ``parents[b, n]``.

        Args:
            parents: indices of hypotheses (B, N').
        """
        rows = torch.arange(parents.size(0), device=parents.device)[:, None]
        self.history = [(key[rows, parents], value[rows, parents]) for key, value in self.history]

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these (indices (B',))."""
        self.visible = self.visible[utterances]
        self.memory = [(key[utterances], value[utterances]) for key, value in self.memory]
        self.history = [(key[utterances], value[utterances]) for key, value in self.history]


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


def attend_prefix(attention, query, past):
    """Attention of the newest token (B, N, D) over its own prefix; returns it with the longer history."""
    utterances, hypotheses, _ = query.shape
    shape = (utterances, hypotheses, attention.h, 1, attention.d_k)
    q = attention.q_norm(attention.linear_q(query).view(shape))
    key = attention.k_norm(attention.linear_k(query).view(shape))
    value = attention.linear_v(query).view(shape)
    if past is not None:
        key = torch.cat((past[0], key), dim=3)
        value = torch.cat((past[1], value), dim=3)
    out = scaled_dot_product_attention(q, key, value)  # (B, N, H, 1, K)
    return attention.linear_out(out.reshape(utterances, hypotheses, -1)), (key, value)
