"""Teachers out of this project and out of ESPnet: exported recognisers, and SSL models.

Legend: B utterances, N samples, T frames, E size of an embedding.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_ext.asr.digest import weights_digest
from espnet_ext.asr.load import check_keys, load_exported, read_config
from espnet_ext.distillation.teachers import (
    LayerTap,
    choose_layer,
    freeze,
    layer_choice,
    same_lengths,
    too_short,
)
from espnet_ext.errors import UserError
from espnet_ext.ssl.encode import encoder_size, features_of
from espnet_ext.ssl.grid import grid_of
from espnet_ext.train.init_param import load_state

#: Samples of silence with which an SSL model is tried: of so many it makes frames.
_HEARD = 16000


def sample_rate_of(config: dict, where: str | Path) -> int:
    """Sample rate in Hz of what a model hears.

    Raises:
        UserError: it reads stored features.
    """
    if config.get("input_size") is not None:
        raise UserError(f"{where}: this model reads stored filterbanks; a teacher hears audio (raw)")
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    return int(float(str(rate).removesuffix("k")) * (1000 if str(rate).endswith("k") else 1))


class RecogniserTeacher:
    """The encoder of a recogniser that stage 9 (export) wrote: supervised, self-supervised, any method's.

    An encoder that has listened to no transcript (task `ssl`) is exported as a recogniser too; a transducer's
    encoder is as good as an attention model's.

    Args:
        folder: with `config.yaml` and `model.pth`.
        layer: see `layer_choice`.
        device: where it computes.
    """

    def __init__(self, folder: Path, layer: str | int = "last", device: torch.device | str = "cpu"):
        self.name, self.layer, self.device = str(folder), layer, torch.device(device)
        model = load_exported(folder)
        config = model.export_config
        self.rate = sample_rate_of(config, folder / "config.yaml")
        self.module = freeze(model, device)
        self.size = encoder_size(model)
        self.hop, self.grid = int(model.frontend.hop_length), grid_of(model.encoder)
        self.shift = self.hop * self.grid.factor
        encoder = model.encoder.encoders
        self._layers = list(getattr(encoder, "blocks", encoder))
        choose_layer([torch.zeros(1)] * len(self._layers), torch.zeros(1), layer, folder)
        self.identity = {
            "kind": "recogniser",
            "weights": weights_digest(model.state_dict()),
            "config": {
                name: config.get(name) for name in ("frontend_conf", "encoder", "encoder_conf", "normalize")
            },
            "layer": str(layer),
            "rate": self.rate,
        }

    @torch.no_grad()
    def embed(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher.embed`."""
        lengths = torch.tensor([len(samples) for samples in audio], device=self.device)
        speech = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in audio], batch_first=True
        ).to(self.device)
        features, frames = features_of(self.module, speech, lengths)
        if min(self.grid.frames(int(n)) for n in frames) < 1:  # ESPnet minds only where all are too short
            raise too_short(self.name, int(lengths.min()))
        with LayerTap(self._layers if layer_choice(self.layer)[0] != "last" else []) as states:
            last, counts = self.module.encoder(features, frames)[:2]
        found = choose_layer(states, last, self.layer)
        return [row[: int(n)].float() for row, n in zip(found, counts, strict=True)]

    def frames(self, samples: int) -> int:
        """See `Teacher.frames`."""
        return self.grid.frames(samples // self.hop + 1)


class SSLTeacher:
    """A self-supervised model of ESPnet's own `ssl` task (its HuBERT), utterance by utterance.

    Args:
        path: the `.pth` beside its `config.yaml`.
        layer: see `layer_choice`; `last` is the network's final output.
        device: where it computes.
    """

    def __init__(self, path: Path, layer: str | int = "last", device: torch.device | str = "cpu"):
        from espnet2.tasks.ssl import SSLTask

        self.name, self.layer, self.device = str(path), layer, torch.device(device)
        config = read_config(path.parent / "config.yaml")
        self.rate = sample_rate_of(config, path.parent / "config.yaml")
        try:
            model = SSLTask.build_model(argparse.Namespace(**config))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path.parent / 'config.yaml'}: ESPnet's ssl task cannot build it "
                f"({type(error).__name__}: {error})"
            ) from None
        state = load_state(path)
        check_keys(state, model.state_dict(), path)
        model.load_state_dict(state)
        self.module = freeze(model, device)
        self.size = encoder_size(model)
        self._layers = list(model.encoder.encoders)
        choose_layer([torch.zeros(1)] * len(self._layers), torch.zeros(1), layer, path)
        self.shift = self._shift()
        self.identity = {
            "kind": "espnet-ssl",
            "weights": weights_digest(model.state_dict()),
            "layer": str(layer),
            "rate": self.rate,
        }

    def _shift(self) -> int:
        """Samples a frame, found by listening to silence: front ends of this task differ."""
        short, long = (self.frames(n) for n in (_HEARD, 2 * _HEARD))
        return round(_HEARD / (long - short))

    def frames(self, samples: int) -> int:
        """See `Teacher.frames`; found by listening to silence of that length."""
        return len(self.embed([np.zeros(samples, dtype=np.float32)])[0])

    @torch.no_grad()
    def embed(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher.embed`. Only utterances of one length share a batch: ESPnet reads padding."""
        found: list[torch.Tensor] = [torch.empty(0)] * len(audio)
        for group in same_lengths(audio):
            speech = torch.from_numpy(np.stack([audio[place] for place in group]).astype(np.float32))
            lengths = torch.full((len(group),), speech.size(1), device=self.device)
            try:
                last, states, _ = self.module.inference_encode(speech.to(self.device), lengths)
            except (RuntimeError, TooShortUttError) as error:  # its parts have a word of their own each
                if isinstance(error, torch.OutOfMemoryError) or speech.size(1) >= _HEARD:
                    raise
                raise too_short(self.name, speech.size(1)) from error
            if last.size(1) < 1:
                raise too_short(self.name, speech.size(1))
            frames = choose_layer(states, last, self.layer)
            for place, row in zip(group, frames, strict=True):
                found[place] = row.float()
        return found
