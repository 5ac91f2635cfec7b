"""Models that give an embedding to every frame of speech, behind one interface.

Legend: B utterances, N samples, T frames, E size of an embedding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from espnet_ext.errors import UserError


class Teacher(Protocol):
    """What computes embeddings: frozen, in evaluation mode, without masks.

    Attributes:
        size: E.
        rate: sample rate in Hz of what it hears.
        shift: samples from one frame to the next.
        identity: plain values that say what the embeddings are. Teachers of one identity give the same.
        module: its network, for those who count parameters.
    """

    size: int
    rate: int
    shift: int
    identity: dict
    module: torch.nn.Module

    def embed(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Embeddings (T, E) fp32 of utterances (N,) in [-1, 1), on the teacher's device.

        An utterance's frames do not depend on its company (to rounding).
        """

    def frames(self, samples: int) -> int:
        """T of an utterance of so many samples."""


def layer_choice(layer: str | int) -> tuple[str, int]:
    """Parse which of a teacher's layers give the embedding.

    Args:
        layer: `last` (with the network's final normalisation, where it has one), a layer's number from 1, or
            `mean:K`, the mean of the last K layers.

    Returns:
        (kind, number), kind being last, layer or mean.

    Raises:
        UserError: something else.
    """
    layer = str(layer)
    kind, _, number = layer.partition(":")
    if layer == "last":
        return "last", 0
    if layer.isdigit() and int(layer) > 0:
        return "layer", int(layer)
    if kind == "mean" and number.isdigit() and int(number) > 0:
        return "mean", int(number)
    raise UserError(f"layer {layer}: expected last, a layer's number from 1, or mean:K (of the last K)")


def choose_layer(
    states: Sequence[torch.Tensor], last: torch.Tensor, layer: str | int, place: str | Path = ""
) -> torch.Tensor:
    """The embedding (B, T, E) that a choice of layers means.

    Args:
        states: output of each layer, the first layer's first; the layers' input is not among them.
        last: what the network gives at its end.
        layer: see `layer_choice`.
        place: of the teacher, for messages.

    Raises:
        UserError: the network has fewer layers.
    """
    kind, number = layer_choice(layer)
    if kind == "last":
        return last
    if number > len(states):
        raise UserError(f"teacher {place}: layer {layer}: it has {len(states)} layers")
    return states[number - 1] if kind == "layer" else torch.stack(list(states[-number:])).mean(0)


def freeze(module: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """Put a network where it computes, in evaluation mode for good, without gradients."""
    return module.to(device).float().eval().requires_grad_(False)


def same_lengths(audio: Sequence[np.ndarray]) -> list[list[int]]:
    """Which utterances can share a batch without any padding: groups of places, equal lengths each."""
    groups: dict[int, list[int]] = {}
    for place, samples in enumerate(audio):
        groups.setdefault(len(samples), []).append(place)
    return list(groups.values())


def kind_of(place: str) -> str:
    """What kind of teacher a place holds: `huggingface`, `ssl` or `recogniser`; nothing is loaded.

    Args:
        place: see `load_teacher`.

    Raises:
        UserError: there is nothing of the kind, or it is of no known type.
    """
    path = Path(place)
    if not path.exists() and (place.startswith((".", "/")) or place.endswith((".pth", ".pt"))):
        raise UserError(f"teacher {place}: no such file or folder")
    if (path / "config.json").exists() or not path.exists():
        return "huggingface"
    if path.is_file() and path.suffix in (".pth", ".pt"):
        return "ssl"
    if (path / "config.yaml").exists():
        return "recogniser"
    raise UserError(
        f"teacher {place}: unknown type: expected a HuggingFace folder (config.json), an exported recogniser "
        "(config.yaml and model.pth), or an ESPnet SSL model (FILE.pth beside its config.yaml)"
    )


def load_teacher(
    place: str, layer: str | int = "last", long: str = "window", device: torch.device | str = "cpu"
) -> Teacher:
    """Load the teacher that a place holds.

    Args:
        place: a HuggingFace folder (`config.json` inside) or hub name, an exported recogniser of this project
            (folder with `config.yaml` and `model.pth`), or an ESPnet SSL model (a `.pth` beside its
            `config.yaml`).
        layer: see `layer_choice`.
        long: what a teacher with a window of its own (Whisper) does with more audio: `window` or `refuse`.
        device: where it computes.

    Raises:
        UserError: there is nothing of the kind, or it is of no known type.
    """
    layer_choice(layer)
    kind = kind_of(place)
    if kind == "huggingface":
        from espnet_ext.distillation.huggingface import HuggingFaceTeacher

        return HuggingFaceTeacher(place, layer, long, device)
    from espnet_ext.distillation.recognisers import RecogniserTeacher, SSLTeacher

    return (SSLTeacher if kind == "ssl" else RecogniserTeacher)(Path(place), layer, device)


def check_rate(teacher: Teacher, place: str, rate: int) -> None:
    """Refuse audio of another sample rate than the teacher's.

    Raises:
        UserError: they differ.
    """
    if teacher.rate != rate:
        raise UserError(
            f"teacher {place}: hears {teacher.rate} Hz, this audio has {rate} Hz; make features with --fs "
            f"{teacher.rate}, or take another teacher"
        )


def too_short(name: str, samples: int) -> UserError:
    """What is said of an utterance of which a teacher makes no frame."""
    return UserError(
        f"teacher {name}: an utterance of {samples} samples is too short for it; raise --min_wav_duration "
        "(stage 3)"
    )


class LayerTap:
    """Outputs of some layers while inside: for networks that return only their last.

    Args:
        layers: modules whose output is a tensor (B, T, E), or a tuple that begins with one.
    """

    def __init__(self, layers: Sequence[torch.nn.Module]):
        self.layers, self.states = layers, []

    def __enter__(self) -> list[torch.Tensor]:
        self._hooks = [layer.register_forward_hook(self._see) for layer in self.layers]
        return self.states

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, module, inputs, output) -> None:
        while isinstance(output, tuple):
            output = output[0]
        self.states.append(output)


#: A function from padded utterances and lengths to frames and lengths.
Encode = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
