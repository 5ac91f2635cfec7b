"""Encoders whose output for an utterance does not depend on its batch.

ESPnet's subsampling keeps a mask that is one frame off, and its depthwise convolutions read whatever stands
behind an utterance's end. The classes here change the computation and no parameter: `make_exact` gives an
ESPnet encoder, weights and all, the class that computes exactly.

Legend: B batch, T frames, T' subsampled frames, D features.
"""

import torch
from espnet.nets.pytorch_backend.transformer import subsampling as espnet_subsampling
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder, EBranchformerEncoderLayer
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

from espnet_ext.asr.convolutions import depthwise, subsample
from espnet_ext.errors import UserError

_SUBSAMPLING = tuple(
    getattr(espnet_subsampling, name)
    for name in (
        "Conv2dSubsampling",
        "Conv2dSubsampling1",
        "Conv2dSubsampling2",
        "Conv2dSubsampling6",
        "Conv2dSubsampling8",
    )
)


class _ExactSubsampling:
    """Convolutional subsampling with the mask of the frames that are really there."""

    def forward(self, x: torch.Tensor, x_mask: torch.Tensor) -> tuple:
        """Subsample (B, T, D) with mask (B, 1, T) to (B, T', D') with mask (B, 1, T').

        Every output frame inside the new mask reads only frames inside the old one. For conv2d,
        T' = ((T - 1) // 2 - 1) // 2.
        """
        x = x.unsqueeze(1).to(memory_format=torch.channels_last)  # channels_last: 1.5 times faster on CPU
        lengths = x_mask.sum(dim=2).squeeze(1)  # (B,)
        convs = self.conv[::2]  # each before its ReLU
        x = subsample(convs, x)
        for conv in convs:
            lengths = torch.div(lengths - conv.kernel_size[0], conv.stride[0], rounding_mode="floor") + 1
        # Some of ESPnet's variants hold the positions apart, the others behind the projection.
        project, positions = (self.out, self.pos_enc) if hasattr(self, "pos_enc") else self.out
        x = positions(_project(project, x))
        mask = torch.arange(x[0].size(1) if isinstance(x, tuple) else x.size(1), device=lengths.device)
        return x, (mask[None, :] < lengths[:, None])[:, None, :]


def _project(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The layer that reads channel by channel, on (B, C, T, D) with the channels last: (B, T, D').

    The weights' columns are put in the order that x has in memory; x is many times larger.
    """
    _, channels, _, size = x.shape
    weight = layer.weight.view(-1, channels, size).transpose(1, 2).flatten(1)
    return torch.nn.functional.linear(x.permute(0, 2, 3, 1).flatten(2), weight, layer.bias)


class _ExactEBranchformerLayer(EBranchformerEncoderLayer):
    """E-Branchformer layer that silences padding before each of its two depthwise convolutions."""

    def forward(self, x_input, mask, cache=None):
        """As ESPnet's layer: (B, T, D), with or without positions, and mask (B, 1, T)."""
        x, positions = x_input if isinstance(x_input, tuple) else (x_input, None)
        keep = mask.transpose(1, 2)  # (B, T, 1)
        if self.feed_forward_macaron is not None:
            x = torch.add(
                x, self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x))), alpha=self.ff_scale
            )
        query = self.norm_mha(x)
        context = (positions,) if positions is not None else ()
        attended = self.dropout(self.attn(query, query, query, *context, mask))
        gated = self.dropout(self._gate(self.norm_mlp(x), keep))
        both = torch.cat([attended, gated], dim=-1)  # (B, T, 2 D)
        fused = depthwise(self.depthwise_conv_fusion, both * keep)
        x = x + self.dropout(self.merge_proj(both + fused))
        if self.feed_forward is not None:
            x = torch.add(x, self.dropout(self.feed_forward(self.norm_ff(x))), alpha=self.ff_scale)
        x = self.norm_final(x)
        return (x, positions) if positions is not None else x, mask

    def _gate(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Convolutional gating MLP of (B, T, D); `keep` (B, T, 1) silences padding before the convolution."""
        csgu = self.cgmlp.csgu
        residual, gate = self.cgmlp.channel_proj1(x).chunk(2, dim=-1)  # (B, T, D_mlp / 2) each
        gate = csgu.norm(gate) * keep
        gate = depthwise(csgu.conv, gate)
        if csgu.linear is not None:
            gate = csgu.linear(gate)
        return self.cgmlp.channel_proj2(csgu.dropout(residual * csgu.act(gate)))


def make_exact(encoder: torch.nn.Module) -> torch.nn.Module:
    """Give an ESPnet encoder the padding-exact computation, in place; parameters and their names stay.

    Args:
        encoder: an E-Branchformer or Transformer encoder with convolutional (2-d) subsampling.

    Raises:
        UserError: an encoder or input layer for which no exact variant exists.
    """
    if not isinstance(encoder, (EBranchformerEncoder, TransformerEncoder)):
        raise UserError(
            f"encoder {type(encoder).__name__}: no padding-exact variant; use e_branchformer or transformer, "
            "or --padding espnet (results then depend on the batch an utterance stands in)"
        )
    if not isinstance(encoder.embed, _SUBSAMPLING):
        raise UserError(
            f"input layer {type(encoder.embed).__name__}: no padding-exact variant; use conv2d, "
            "conv2d1, conv2d2, conv2d6 or conv2d8, or --padding espnet"
        )
    base = type(encoder.embed)
    # The class of a built module is changed, instead of building a new one, so that construction, and with it
    # the random numbers that initialise the parameters, stays ESPnet's own.
    encoder.embed.__class__ = type(f"Exact{base.__name__}", (_ExactSubsampling, base), {})
    if isinstance(encoder, EBranchformerEncoder):
        for layer in encoder.encoders:
            layer.__class__ = _ExactEBranchformerLayer
    return encoder
