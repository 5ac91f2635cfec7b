"""The critic: one number for a sequence of distributions over tokens, high for transcripts.

Legend: B sequences, L positions (labels with <eos>), V tokens, C channels.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from espnet_ext.errors import UserError
from espnet_ext.gan.batch_norm import MaskedBatchNorm, Statistics

ACTIVATIONS = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "gelu": nn.GELU,
}
NORMS = ("batch", "layer", "none")


class Critic(nn.Module):
    """Convolutions over the sequence, their mean over time, one score (Haidar 2021, figure 1).

    Linear (V → C), convolutions of stride 1 without padding with a normalisation between each two, mean over
    the outputs that saw no padding, Linear (C → 1). The paper's critic has `norm: batch` and `activation:
    none`; an activation stands after each normalisation and after the last convolution.

    Args:
        vocabulary: V.
        width: C.
        kernel_sizes: positions each convolution sees.
        norm: `batch` (couples the sequences of a pass, see `MaskedBatchNorm`), `layer` (over the channels of
            a position) or `none`.
        activation: `none`, `relu`, `leaky_relu` (slope 0.2) or `gelu`.

    Raises:
        UserError: a value out of range.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 128,
        kernel_sizes: Sequence[int] = (2, 2),
        norm: str = "layer",
        activation: str = "leaky_relu",
    ):
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise UserError(f"critic_conf: width: expected a whole number above 0, got {width!r}")
        if not isinstance(kernel_sizes, (list, tuple)) or not kernel_sizes:
            raise UserError(f"critic_conf: kernel_sizes: expected a list as [2, 2], got {kernel_sizes!r}")
        if not all(isinstance(size, int) and size > 0 for size in kernel_sizes):
            raise UserError(
                f"critic_conf: kernel_sizes: expected whole numbers above 0, got {list(kernel_sizes)}"
            )
        if norm not in NORMS:
            raise UserError(f"critic_conf: norm: expected one of {', '.join(NORMS)}, got {norm!r}")
        if activation not in ACTIVATIONS:
            raise UserError(
                f"critic_conf: activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        self.project = nn.Linear(vocabulary, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, size) for size in kernel_sizes)
        make_norm = {"batch": MaskedBatchNorm, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}[norm]
        self.norms = nn.ModuleList(make_norm(width) for _ in kernel_sizes[1:])
        self.activation = ACTIVATIONS[activation]()
        self.score = nn.Linear(width, 1)

    @property
    def coupled(self) -> bool:
        """Whether a pass without given statistics makes a sequence's score depend on the others."""
        return any(isinstance(norm, MaskedBatchNorm) for norm in self.norms)

    @property
    def reach(self) -> int:
        """Positions that one output of the last convolution sees: the shortest sequence it can score."""
        return 1 + sum(convolution.kernel_size[0] - 1 for convolution in self.convolutions)

    def forward(
        self, sequences: torch.Tensor, lengths: torch.Tensor, statistics: Sequence[Statistics] | None = None
    ) -> tuple[torch.Tensor, list[Statistics]]:
        """Score sequences.

        Args:
            sequences: (B, L, V) distributions; what stands behind a sequence's length is not read.
            lengths: (B,), each at least `reach`, or 0: such a sequence is left out, and scores 0.
            statistics: normalise with these, as an earlier pass returned them, instead of this pass's own.

        Returns:
            (B,) scores, and the statistics of each BatchNorm (an empty list with another norm).
        """
        # On a GPU the look would wait for everything before it; the task has checked the data by then.
        if lengths.device.type == "cpu" and ((lengths > 0) & (lengths < self.reach)).any():
            shortest = int(lengths[lengths > 0].min())
            raise ValueError(f"a sequence of {shortest} positions; the critic needs {self.reach}")
        # Room for one window, also where all sequences are left out.
        sequences = F.pad(sequences, (0, 0, 0, max(0, self.reach - sequences.size(1))))
        positions = torch.arange(sequences.size(1), device=sequences.device)
        left = lengths.to(sequences.device)[:, None]  # (B, 1) outputs that saw no padding
        # No output that counts sees the padding; zeros there keep a NaN or an infinity from passing by.
        hidden = self.project(sequences.masked_fill((positions >= left)[..., None], 0.0))  # (B, L, C)
        used: list[Statistics] = []
        for number, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden.transpose(1, 2)).transpose(1, 2)
            left = left - (convolution.kernel_size[0] - 1)
            if number < len(self.norms):
                hidden = self._normalise(number, hidden, positions[: hidden.size(1)] < left, statistics, used)
            hidden = self.activation(hidden)
        valid = (positions[: hidden.size(1)] < left)[..., None]  # (B, L', 1)
        mean = hidden.masked_fill(~valid, 0.0).sum(1) / left.clamp(min=1)  # (B, C)
        return self.score(mean).squeeze(1).masked_fill(lengths.to(mean.device) == 0, 0.0), used

    def _normalise(
        self,
        number: int,
        hidden: torch.Tensor,
        valid: torch.Tensor,
        statistics: Sequence[Statistics] | None,
        used: list[Statistics],
    ) -> torch.Tensor:
        norm = self.norms[number]
        if not isinstance(norm, MaskedBatchNorm):
            return norm(hidden)
        hidden, own = norm(hidden, valid, statistics[number] if statistics is not None else None)
        used.append(own)
        return hidden
