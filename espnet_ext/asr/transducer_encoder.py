"""ESPnet's stand-alone transducer encoder with outputs that do not depend on an utterance's batch.

ESPnet's input layer cuts its mask to the subsampled length instead of subsampling it, so that every shorter
utterance of a batch has the length of the longest; its VGG variant and its Conformer read and count padding.
The classes here change the computation and no parameter: `make_exact` gives an ESPnet encoder, weights and
all, the class that computes exactly. Masks are ESPnet's: true where there is padding.

Legend: B batch, T frames, T' subsampled frames, D features, C channels.
"""

import torch
from espnet2.asr_transducer.encoder.blocks.branchformer import Branchformer
from espnet2.asr_transducer.encoder.blocks.conformer import Conformer
from espnet2.asr_transducer.encoder.blocks.conv1d import Conv1d
from espnet2.asr_transducer.encoder.blocks.conv_input import ConvInput
from espnet2.asr_transducer.encoder.blocks.ebranchformer import EBranchformer
from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.encoder.modules.convolution import ConformerConvolution
from espnet2.asr_transducer.utils import check_short_utt, make_chunk_mask, make_source_mask

from espnet_ext.errors import UserError


class TooShort(UserError):
    """An utterance of which subsampling leaves nothing."""


class ExactConvInput(ConvInput):
    """Convolutional subsampling with the mask of the frames that are really there."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple:
        """Subsample (B, T, D) with mask (B, T) to (B, T', D') with mask (B, T').

        An output frame inside the new mask reads frames inside the old one, or the zeros that the VGG variant
        puts around an utterance.
        """
        if mask is None:
            return super().forward(x, mask)
        lengths = mask.logical_not().sum(1)  # (B,)
        x = x.unsqueeze(1)  # (B, 1, T, D)
        for module in self.conv:
            if isinstance(module, (torch.nn.Conv2d, torch.nn.MaxPool2d)):
                if isinstance(module, torch.nn.MaxPool2d) or module.padding[0] > 0:
                    # A pool's last window may be a part of one. It follows a ReLU, so zeros never win there.
                    x = x.masked_fill(_beyond(lengths, x.size(2))[:, None, :, None], 0.0)
                lengths = _output_length(lengths, module)
            x = module(x)
        x = x.transpose(1, 2).flatten(2)  # (B, T', C * D')
        if self.output is not None:
            x = self.output(x)
        return x, _beyond(lengths, x.size(1))


class _ExactConformerConvolution(ConformerConvolution):
    """Convolution module whose BatchNorm counts and normalises the frames that are there."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, cache=None) -> tuple:
        """(B, T, D) with mask (B, T); with a cache (streaming) as ESPnet's."""
        if mask is None:
            return super().forward(x, mask, cache)
        x = torch.nn.functional.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x = x.masked_fill(mask[:, None], 0.0)
        if self.lorder > 0:
            x = torch.nn.functional.pad(x, (self.lorder, 0))
        x = self.depthwise_conv(x).transpose(1, 2)  # (B, T, D)
        keep = mask.logical_not()
        normalised = torch.zeros_like(x).masked_scatter(keep[..., None], self.norm(x[keep]))
        return self.pointwise_conv2(self.activation(normalised).transpose(1, 2)).transpose(1, 2), cache


class ExactEncoder(Encoder):
    """The encoder with chunks that evaluation decides on.

    With dynamic chunks a training batch is cut into chunks of a random size, drawn from torch's generator as
    in ESPnet. In evaluation ESPnet draws too, so that no two validations agree; here the encoder then sees
    whole utterances, or chunks of `evaluation_chunk` subsampled frames.
    """

    evaluation_chunk: int | None = None

    def forward(self, x: torch.Tensor, x_len: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode (B, T, D) of lengths (B,) to (B, T', D') of lengths (B,).

        Raises:
            TooShort: an utterance of which subsampling leaves nothing.
        """
        x, mask = self._subsample(x, x_len)
        x = self.encoders(x, self.pos_enc(x), mask, chunk_mask=self._chunk_mask(x.size(1), x.device))
        return x, mask.logical_not().sum(1)

    def _subsample(self, x, x_len) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = x_len
        if not check_short_utt(self.embed.subsampling_factor, x.size(1))[0]:
            x, mask = self.embed(x, make_source_mask(x_len))
            lengths = mask.logical_not().sum(1)
            if int(lengths.min()) > 0:
                return x[:, : int(lengths.max())], mask[:, : int(lengths.max())]
        raise TooShort(
            f"an utterance of {int(x_len.min())} frames is too short for subsampling by "
            f"{self.embed.subsampling_factor}; raise --min_wav_duration (stage 3)"
        )

    def _chunk_mask(self, frames: int, device: torch.device) -> torch.Tensor | None:
        """(T', T') true where a frame is out of another's sight; None if nothing is."""
        if not self.dynamic_chunk_training:
            return None
        chunk = self.evaluation_chunk
        if self.training:
            chunk = int(torch.randint(1, max(2, frames), (1,)))
            chunk = (
                frames if chunk > frames * self.short_chunk_threshold else chunk % self.short_chunk_size + 1
            )
        if chunk is None:
            return None
        return make_chunk_mask(frames, chunk, num_left_chunks=self.num_left_chunks, device=device)


def enlarge_input(encoder: Encoder) -> None:
    """Multiply the initial weights of the input layer's projection by sqrt(D), D its size, in place.

    ESPnet's other encoders multiply the input layer's output by sqrt(D), as Transformers do; the stand-alone
    one does not, so that speech enters its residual stream with a tenth of what every block adds to it. The
    function at the start becomes the other encoders'; architecture and names stay. With it CTC alone learns
    as from ESPnet's E-Branchformer, without it later.
    """
    layer = encoder.embed.output
    if layer is not None:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(layer.out_features**0.5)


def make_exact(encoder: Encoder) -> Encoder:
    """Give a built encoder the exact computation, in place; parameters and their names stay.

    Raises:
        UserError: a block for which no exact variant exists.
    """
    encoder.__class__ = ExactEncoder
    encoder.embed.__class__ = ExactConvInput
    for number, block in enumerate(encoder.encoders.blocks, 1):
        if isinstance(block, Conformer):
            block.conv_mod.__class__ = _ExactConformerConvolution
        # Other convolutions of one dimension count positions from the padded end, or padding in BatchNorm.
        elif not isinstance(block, (Branchformer, EBranchformer)) and not (
            isinstance(block, Conv1d)
            and block.causal
            and not block.batch_norm
            and block.conv.dilation == (1,)
        ):
            raise UserError(
                f"encoder block {number} ({type(block).__name__}): no padding-exact variant; use "
                "ebranchformer, branchformer, conformer or (with dynamic_chunk_training, and without "
                "batch_norm and dilation) conv1d, or --padding espnet"
            )
    return encoder


def _beyond(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size) true behind each length."""
    return torch.arange(size, device=lengths.device) >= lengths[:, None]


def _output_length(lengths: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    """Frames that a convolution or a pool makes of (B,) frames."""
    kernel, stride, padding = (
        value[0] if isinstance(value, tuple) else value
        for value in (module.kernel_size, module.stride, module.padding)
    )
    rounding = stride - 1 if getattr(module, "ceil_mode", False) else 0
    return torch.div(lengths + 2 * padding - kernel + rounding, stride, rounding_mode="floor") + 1
