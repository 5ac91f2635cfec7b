"""HuggingFace's speech encoders as teachers: wav2vec 2.0, HuBERT, WavLM, data2vec and Whisper.

Legend: B utterances, N samples, T frames, E size of an embedding, C channels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_ext.asr.digest import weights_digest
from espnet_ext.distillation.teachers import (
    choose_layer,
    freeze,
    layer_choice,
    same_lengths,
    too_short,
)
from espnet_ext.errors import UserError
from espnet_ext.files import read_json

#: Model types (`config.json`: model_type) that are understood, and whether padding may stand in a batch:
#: data2vec's positions are a stack of convolutions, each of which carries padding on to the next.
TYPES = {"wav2vec2": True, "hubert": True, "wavlm": True, "data2vec-audio": False, "whisper": True}

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: Beginnings of names of tensors that a file may lack: nobody reads them here (masks are off), or they are
#: no part of the encoder. An `adapter_layer` within an encoder's layers is one.
_NOT_READ = ("masked_spec_embed", "decoder.", "adapter.")


class HuggingFaceTeacher:
    """See `espnet_ext.distillation.teachers.Teacher`.

    Args:
        name: local folder, or name on the hub.
        layer: see `layer_choice`.
        long: Whisper hears 30 s: `window` cuts longer audio into pieces of 30 s, `refuse` refuses it.
        device: where it computes.

    Raises:
        UserError: transformers is not installed, the folder lacks something, or holds another type of model.
    """

    def __init__(self, name: str, layer: str | int, long: str, device: torch.device | str = "cpu"):
        if long not in ("window", "refuse"):
            raise UserError(f"long {long}: expected window or refuse")
        self.name, self.layer, self.long, self.device = name, layer, long, torch.device(device)
        module, self.config, about = _load(name)
        self.kind = self.config.model_type
        self.module = freeze(module, device)
        self.rate = about["sampling_rate"]
        self.normalise = bool(about.get("do_normalize", False))
        self.size = int(self.config.d_model if self.kind == "whisper" else self.config.hidden_size)
        self.layers = int(
            self.config.encoder_layers if self.kind == "whisper" else self.config.num_hidden_layers
        )
        choose_layer([torch.zeros(1)] * self.layers, torch.zeros(1), layer, name)
        if self.kind == "whisper":
            self._whisper(about)
        else:
            # Strided convolutions that some append to the encoder: of another frame rate, and no part of it.
            self.module.adapter = None
            self.kernels, self.strides = list(self.config.conv_kernel), list(self.config.conv_stride)
            self.shift = int(np.prod(self.strides))
            self._norm = _mask_group_norm(self.module)
        self.identity = {
            "kind": self.kind,
            "weights": weights_digest(self.module.state_dict()),
            "layer": str(layer),
            "rate": self.rate,
            "normalise": self.normalise,
            "long": long if self.kind == "whisper" else None,
        }

    @torch.no_grad()
    def embed(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher.embed`."""
        if self.kind == "whisper":
            return self._embed_whisper(audio)
        groups = [list(range(len(audio)))] if TYPES[self.kind] else same_lengths(audio)
        found: list[torch.Tensor] = [torch.empty(0)] * len(audio)
        for group in groups:
            for place, frames in zip(group, self._embed_batch([audio[i] for i in group]), strict=True):
                found[place] = frames
        return found

    def frames(self, samples: int) -> int:
        """See `Teacher.frames`."""
        return samples // self.shift if self.kind == "whisper" else self._frames(samples)

    def _embed_batch(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        audio = [self._scaled(samples) for samples in audio]
        lengths = torch.tensor([len(samples) for samples in audio])
        if min(self._frames(int(n)) for n in lengths) < 1:
            raise too_short(self.name, int(lengths.min()))
        values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in audio], batch_first=True)
        mask = torch.arange(values.size(1)) < lengths[:, None]
        if self._norm is not None:
            self._norm.frames = ((lengths - self.kernels[0]) // self.strides[0] + 1).to(self.device)
        output = self.module(
            values.to(self.device),
            attention_mask=None if bool(mask.all()) else mask.long().to(self.device),
            output_hidden_states=layer_choice(self.layer)[0] != "last",
            return_dict=True,
        )
        states = (output.hidden_states or ())[1:]  # the first is the layers' input
        frames = choose_layer(states, output.last_hidden_state, self.layer)
        return [row[: self._frames(int(n))].float() for row, n in zip(frames, lengths, strict=True)]

    def _scaled(self, samples: np.ndarray) -> np.ndarray:
        """What the feature extractor of transformers makes of an utterance: mean 0 and variance 1, or not."""
        samples = samples.astype(np.float32)
        if self.normalise:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples

    def _frames(self, samples: int) -> int:
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def _whisper(self, about: dict) -> None:
        from transformers import WhisperFeatureExtractor

        self.extract = WhisperFeatureExtractor.from_dict(about)
        if self.extract.feature_size != self.config.num_mel_bins:
            raise UserError(
                f"teacher {self.name}: preprocessor_config.json makes {self.extract.feature_size} mel bands, "
                f"the network (config.json) hears {self.config.num_mel_bins}; take both from one model"
            )
        # Two convolutions halve the frames of the mel spectrogram, which has a fixed number of them.
        self.shift = 2 * int(self.extract.hop_length)
        self.window = int(self.config.max_source_positions) * self.shift  # samples

    def _embed_whisper(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of the audio alone: those of the silence that fills Whisper's window are dropped."""
        shortest = min(len(samples) for samples in audio)
        if self.frames(shortest) < 1:
            raise too_short(self.name, shortest)
        if self.long == "refuse":
            longest = max(len(samples) for samples in audio)
            if longest > self.window:
                raise UserError(
                    f"teacher {self.name}: hears {self.window / self.rate:g} s, an utterance has "
                    f"{longest / self.rate:.1f} s; set long: window, or --max_wav_duration"
                )
        pieces = [
            (row, samples[start : start + self.window])
            for row, samples in enumerate(audio)
            for start in range(0, max(1, len(samples) - self.shift + 1), self.window)
        ]
        features = self.extract(
            [piece for _, piece in pieces],
            sampling_rate=self.rate,
            return_tensors="pt",
            max_length=self.window,
            padding="max_length",
        ).input_features
        output = self.module(
            features.to(self.device),
            output_hidden_states=layer_choice(self.layer)[0] != "last",
            return_dict=True,
        )
        # As with other encoders the first hidden state is the layers' input.
        states = (output.hidden_states or ())[1:]
        frames = choose_layer(states, output.last_hidden_state, self.layer)
        found: list[list[torch.Tensor]] = [[] for _ in audio]
        for (row, piece), own in zip(pieces, frames, strict=True):
            found[row].append(own[: len(piece) // self.shift].float())
        return [torch.cat(each) for each in found]


class _MaskedGroupNorm(torch.nn.Module):
    """The first convolution's normalisation over time, over the frames that are there.

    wav2vec 2.0 base and its relatives normalise each channel over an utterance; over a padded batch the
    padding would count.
    """

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm
        self.frames: torch.Tensor | None = None  # (B,) of the batch that comes next

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T)."""
        there = (torch.arange(x.size(2), device=x.device) < self.frames[:, None])[:, None]
        count = self.frames[:, None, None]
        mean = (x * there).sum(2, keepdim=True) / count
        variance = ((x - mean).square() * there).sum(2, keepdim=True) / count
        x = (x - mean) * torch.rsqrt(variance + self.norm.eps)
        return x * self.norm.weight[:, None] + self.norm.bias[:, None]


def _mask_group_norm(module: torch.nn.Module) -> _MaskedGroupNorm | None:
    """Replace a model's normalisation over time, if it has one."""
    first = module.feature_extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if not isinstance(norm, torch.nn.GroupNorm):
        return None
    if norm.num_groups != norm.num_channels:
        raise UserError("teacher: its first GroupNorm mixes channels, which no known model does")
    first.layer_norm = _MaskedGroupNorm(norm)
    return first.layer_norm


def _load(name: str):
    """Network, configuration and preprocessor's settings; or a message about what is wrong."""
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import cached_file, logging
    except ImportError:
        raise UserError(
            f"teacher {name}: needs the package transformers; install it with `pip install transformers`"
        ) from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(name)
    local = folder.exists()
    if local and not any((folder / file).exists() for file in _WEIGHTS):
        raise UserError(f"teacher {name}: no weights in this folder (expected {' or '.join(_WEIGHTS)})")
    try:
        if local:
            preprocessor = folder / "preprocessor_config.json"
        else:
            preprocessor = Path(cached_file(name, "preprocessor_config.json"))
        # Code that comes with a model is never run: unless told so, transformers asks on the terminal.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises anything from OSError to a client's own errors
        what = "expected a known model" if local else "give a local folder or a hub in reach"
        raise UserError(f"teacher {name}: {_reason(error)}; {what}") from None
    if config.model_type not in TYPES:
        raise UserError(
            f"teacher {name}: unknown type {config.model_type!r} (config.json); known are {', '.join(TYPES)}"
        )
    if not preprocessor.exists():
        raise UserError(
            f"{preprocessor}: no such file; it says the sample rate and how the samples are scaled, which "
            "cannot be guessed: copy it from where the model is from"
        )
    about = read_json(preprocessor)
    rate = about.get("sampling_rate")
    if not isinstance(rate, int) or isinstance(rate, bool) or rate < 1:
        raise UserError(f"{preprocessor}: sampling_rate {rate!r}: expected a whole number of Hz, as 16000")
    if not isinstance(about.get("do_normalize", False), bool):
        raise UserError(f"{preprocessor}: do_normalize {about['do_normalize']!r}: expected true or false")
    try:
        module, loading = AutoModel.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"teacher {name}: transformers cannot load it ({_reason(error)})") from None
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(_NOT_READ))
    if missing:
        raise UserError(
            f"teacher {name}: its file lacks {len(missing)} of the network's tensors "
            f"({', '.join(missing[:3])}...): they would be random"
        )
    return (module.encoder if config.model_type == "whisper" else module), config, about


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
