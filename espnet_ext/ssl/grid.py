"""Which feature frames an encoder frame reads, and how many encoder frames there are.

Legend: B batch, T feature frames, T' encoder frames.
"""

from dataclasses import dataclass

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.method import Totals


@dataclass(frozen=True)
class Grid:
    """Encoder frame t is computed from feature frames [t * factor, t * factor + window).

    Attention and convolutions of later layers look further; this is what the input layer gives each frame,
    so that hiding those frames hides everything the frame itself could see.
    """

    factor: int
    window: int

    def frames(self, features: int) -> int:
        """Encoder frames T' of an utterance of ``features`` feature frames; none below one window."""
        return max(0, (features - self.window) // self.factor + 1)

    def features(self, frames: int) -> int:
        """Feature frames that ``frames`` encoder frames in a row read (at least one frame)."""
        return (frames - 1) * self.factor + self.window

    def expected_frames(self, totals: Totals) -> float:
        """Encoder frames of a whole optimiser step, from what is known of it before it is computed.

        T' = (T - window) // factor + 1 loses (factor - 1) / 2 feature frames an utterance on average, so that
        the result is within (factor - 1) / (2 factor) of the truth for each utterance, and right on average.
        """
        lost = self.window + (self.factor - 1) / 2
        return max(1.0, (totals.frames - lost * totals.utterances) / self.factor + totals.utterances)


def grid_of(encoder: torch.nn.Module) -> Grid:
    """The grid of an encoder with a convolutional input layer.

    Raises:
        UserError: the input layer is of another kind, so that it is unknown which frames a mask must hide.
    """
    embed = getattr(encoder, "embed", None)
    convolutions = getattr(embed, "conv", None)
    layers = list(convolutions) if isinstance(convolutions, torch.nn.Sequential) else []
    convolved = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    other = [x for x in layers if not isinstance(x, (torch.nn.Conv2d, torch.nn.ReLU))]
    if not convolved or other or any(layer.padding != (0, 0) for layer in convolved):
        raise UserError(
            f"encoder {type(encoder).__name__} with input layer {type(embed).__name__}: a self-supervised "
            "loss cannot mask it, since it is not known which feature frames an encoder frame reads; use "
            "e_branchformer or transformer with input_layer conv2d, conv2d1, conv2d2, conv2d6 or conv2d8, or "
            "a transducer's encoder with vgg_like: false"
        )
    factor = window = 1
    for layer in convolved:
        window += (layer.kernel_size[0] - 1) * factor
        factor *= layer.stride[0]
    return Grid(factor, window)
