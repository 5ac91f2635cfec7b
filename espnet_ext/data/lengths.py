"""Rates and lengths: how many frames come out of so many samples, checked against ESPnet's modules."""

import itertools
from collections.abc import Sequence

from espnet_ext.errors import UserError

#: Subsampling layer of ESPnet's encoders: (kernel, stride) along time of its convolutions, without padding.
SUBSAMPLING = {
    "conv1d1": ((3, 1), (3, 1)),
    "conv1d2": ((3, 1), (3, 2)),
    "conv1d3": ((3, 1), (5, 3)),
    "conv2d": ((3, 2), (3, 2)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
    "linear": (),
}


def sample_rate(value: int | str) -> int:
    """A sample rate in Hz as ESPnet's options give it.

    Raises:
        UserError: it is not a rate.

    >>> sample_rate("16k"), sample_rate("8000"), sample_rate(22050)
    (16000, 8000, 22050)
    """
    digits, factor = (value[:-1], 1000) if str(value).endswith("k") else (str(value), 1)
    if not (digits.isdecimal() and int(digits) > 0):
        raise UserError(f"sample rate {value!r}: expected Hz, as in 16000, or kHz, as in 16k")
    return int(digits) * factor


def stft_frames(samples: int, n_fft: int = 512, hop: int = 128, center: bool = True) -> int:
    """Frames of ESPnet's frontend (``torch.stft``) for so many samples.

    >>> stft_frames(16000)
    126
    """
    padded = samples + 2 * (n_fft // 2) if center else samples
    return max(0, (padded - n_fft) // hop + 1)


def fbank_frames(samples: int, window: int = 400, shift: int = 160) -> int:
    """Frames of a Kaldi filterbank without padding (``snip_edges``) for so many samples.

    >>> fbank_frames(16000)
    98
    """
    return max(0, (samples - window) // shift + 1)


def encoder_frames(frames: int, input_layer: str = "conv2d") -> int:
    """Encoder frames after the subsampling layer; for conv2d ((T - 1) // 2 - 1) // 2.

    Raises:
        UserError: ``input_layer`` is none of SUBSAMPLING.

    >>> encoder_frames(126)
    30
    """
    if input_layer not in SUBSAMPLING:
        raise UserError(f"encoder_conf.input_layer {input_layer!r} is none of {', '.join(SUBSAMPLING)}")
    for kernel, stride in SUBSAMPLING[input_layer]:
        frames = max(0, (frames - kernel) // stride + 1)
    return frames


def ctc_frames_needed(tokens: Sequence[int]) -> int:
    """Least number of encoder frames that CTC can align with these tokens: a blank parts equal neighbours.

    >>> ctc_frames_needed([5, 5, 6])
    4
    """
    return len(tokens) + sum(one == other for one, other in itertools.pairwise(tokens))
