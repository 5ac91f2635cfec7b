"""Transcripts as the critic sees them: one-hot vectors, smoothed if asked for.

Legend: B utterances, U positions (labels with <eos>), V tokens.
"""

from collections.abc import Sequence

import torch

from espnet_ext.train.keys import generator


def real_sequences(
    targets: torch.Tensor, vocabulary: int, smoothing: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """Distributions over tokens with their peak at the label.

    Args:
        targets: (B, U) labels; negative where there is none.
        vocabulary: V.
        smoothing: what is taken from the label and spread over the V - 1 others evenly, as ESPnet's label
            smoothing does; a number, or (B, U).

    Returns:
        (B, U, V), zero where there is no label.
    """
    there = targets >= 0
    if not isinstance(smoothing, torch.Tensor):
        smoothing = torch.full(targets.shape, smoothing, device=targets.device)
    smoothing = smoothing.to(targets.device)[..., None]
    sequences = (smoothing / (vocabulary - 1)).expand(*targets.shape, vocabulary)
    sequences = sequences.scatter(2, targets.clamp(min=0)[..., None], 1 - smoothing)
    return sequences.masked_fill(~there[..., None], 0.0)


def draw_smoothing(
    keys: Sequence[int], purpose: str, lengths: Sequence[int], smoothing: float, noise: float
) -> torch.Tensor:
    """How much each label gives away: `smoothing`, and at most `noise` more, drawn for every position.

    Args:
        keys: one random key an utterance.
        purpose: tells several draws for an utterance apart.
        lengths: positions of each utterance.
        smoothing, noise: the range.

    Returns:
        (B, U), U the largest length. A row depends on its key and purpose alone, not on its batch.
    """
    amounts = torch.full((len(keys), max(lengths)), smoothing)
    if noise > 0:
        for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            drawn = generator(key, "noise", purpose).random(length)
            amounts[row, :length] += noise * torch.from_numpy(drawn)
    return amounts


def draw_mix(keys: Sequence[int], purpose: str) -> torch.Tensor:
    """(B,) numbers in [0, 1), one an utterance, from its key and purpose alone."""
    return torch.tensor([generator(key, "mix", purpose).random() for key in keys], dtype=torch.float32)
