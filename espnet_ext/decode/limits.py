"""Length limits of a search, as ESPnet's ``maxlenratio`` and ``minlenratio`` mean them.

B: utterances.
"""

import torch


def length_limits(
    lens: torch.Tensor, maxlenratio: float, minlenratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest number of tokens of each utterance.

    A positive ratio is a share of the encoder frames, a negative one an absolute number of tokens;
    ``maxlenratio`` 0 allows as many tokens as frames.

    Args:
        lens: encoder frames (B,).
        maxlenratio: bounds the length from above, to at least one token.
        minlenratio: bounds the length from below.

    Returns:
        minimum (B,) and maximum (B,), both on the device of ``lens``.
    """
    if maxlenratio == 0:
        longest = lens.clone()
    elif maxlenratio < 0:
        longest = torch.full_like(lens, -int(maxlenratio))
    else:
        # float64 as Python's own: int(0.29 * 100) must come out as in ESPnet
        longest = (lens.double() * maxlenratio).long()
    if minlenratio < 0:
        shortest = torch.full_like(lens, -int(minlenratio))
    else:
        shortest = (lens.double() * minlenratio).long()
    return shortest, longest.clamp(min=1)
