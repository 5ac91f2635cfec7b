"""The two halves of a recogniser's encoder pass, so that a loss can stand between them.

They use what the attention/CTC model and the stand-alone transducer have in common: `_extract_feats`,
`normalize` and `encoder`.

Legend: B batch, N samples, T feature frames, T' encoder frames, F features, D encoder's size.
"""

import torch

from espnet_ext.train.precision import full_precision


def features_of(
    model: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Front end and normalisation: (B, N) samples and lengths (B,) → features (B, T, F) and lengths (B,)."""
    with full_precision(speech.device):
        features, lengths = model._extract_feats(speech, lengths)
        if model.normalize is not None:
            features, lengths = model.normalize(features, lengths)
    return features, lengths


def encode(model: torch.nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Features (B, T, F) of true lengths (B,) → encoder output (B, T', D)."""
    return model.encoder(features, lengths)[0]


def feature_size(model: torch.nn.Module, input_size: int | None) -> int:
    """F: what the front end gives, or the size of the stored features."""
    return model.frontend.output_size() if model.frontend is not None else int(input_size)


def encoder_size(model: torch.nn.Module) -> int:
    """D: a method of ESPnet's encoders, an attribute of its stand-alone transducer's."""
    size = model.encoder.output_size
    return size() if callable(size) else int(size)
