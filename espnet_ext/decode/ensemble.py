"""Several exported models decoded as one: posteriors of their decoders and CTC layers are averaged.

What an ensemble of K models reaches is the upper bound of what one of them can learn from the others, at K
times the price (Hinton et al. 2015). With P_k(w|h) the k-th decoder's posterior of the next token and
y_k(t) that of its CTC layer at frame t, every search here sees 1/K Σ_k P_k(w|h) and 1/K Σ_k y_k(t) in the
place of one model's.

B: utterances, N: hypotheses of an utterance, T: frames, U: tokens so far, D: features, V: tokens.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_ext.asr.load import load_exported
from espnet_ext.decode.cached_decoder import CachedDecoder, check_supported
from espnet_ext.errors import UserError

#: What the models of an ensemble have in common: each reads the same speech and writes the same tokens.
SHARED = ("token_list", "token_type", "bpemodel", "input_size")


def load_models(model_dir: Path | Sequence[Path], device: str = "cpu") -> torch.nn.Module:
    """One exported model, or several that decode together.

    Raises:
        UserError: a model that cannot be read, or models that cannot decode together.
    """
    folders = folders_of(model_dir)
    models = [load_exported(folder, device) for folder in folders]
    if len(models) == 1:
        return models[0]
    _check(models, folders)
    return Ensemble(models)


def describe_models(model_dir: Path | Sequence[Path]) -> dict:
    """``model_dir`` and ``model_sha256`` for a summary: strings of one model, lists of several."""
    folders = folders_of(model_dir)
    digests = [hashlib.sha256((folder / "model.pth").read_bytes()).hexdigest() for folder in folders]
    if len(folders) == 1:
        return {"model_dir": str(folders[0]), "model_sha256": digests[0]}
    return {"model_dir": list(map(str, folders)), "model_sha256": digests}


def folders_of(model_dir: Path | Sequence[Path]) -> list[Path]:
    """One folder or several, as a list."""
    return [model_dir] if isinstance(model_dir, Path) else list(model_dir)


class Ensemble(torch.nn.Module):
    """Models with the same tokens and frames, to a search like a single one.

    Args:
        models: exported models in evaluation mode, on one device.
    """

    use_transducer_decoder = False

    def __init__(self, models: Sequence[torch.nn.Module]):
        super().__init__()
        self.models = torch.nn.ModuleList(models)
        first = models[0]
        self.sos, self.eos, self.blank_id = first.sos, first.eos, first.blank_id
        self.export_config = first.export_config
        self.sizes = [model.encoder.output_size() for model in models]
        # What one of them lacks, their mean lacks.
        listen = all(model.ctc is not None for model in models)
        write = all(model.decoder is not None for model in models)
        self.ctc = _MeanCTC([model.ctc for model in models], self.sizes) if listen else None
        self.decoder = _MeanDecoder([model.decoder for model in models], self.sizes) if write else None

    def encode(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder outputs side by side (B, T, D_1 + ... + D_K), and their lengths (B,).

        Raises:
            UserError: the encoders make other numbers of frames of the same speech.
        """
        found = [model.encode(speech, lengths) for model in self.models]
        lens = found[0][1]
        for number, (_, other) in enumerate(found[1:], 2):
            if not torch.equal(lens, other):
                raise UserError(
                    f"models 1 and {number} make {lens.tolist()} and {other.tolist()} frames of the same "
                    "speech, so that CTC has no mean; give them the same hop_length and input_layer"
                )
        return torch.cat([memory for memory, _ in found], dim=-1), lens


class _MeanCTC(torch.nn.Module):
    """CTC layers whose posteriors are averaged frame by frame."""

    def __init__(self, layers: Sequence[torch.nn.Module], sizes: Sequence[int]):
        super().__init__()
        self.layers, self.sizes = torch.nn.ModuleList(layers), list(sizes)

    def log_softmax(self, memory: torch.Tensor) -> torch.Tensor:
        """Log of the mean posterior (B, T, V) from encoder outputs side by side."""
        parts = memory.split(self.sizes, dim=-1)
        return _log_mean([layer.log_softmax(part) for layer, part in zip(self.layers, parts, strict=True)])


class _MeanDecoder(torch.nn.Module):
    """Decoders whose posteriors are averaged token by token."""

    def __init__(self, decoders: Sequence[torch.nn.Module], sizes: Sequence[int]):
        super().__init__()
        self.members, self.sizes = torch.nn.ModuleList(decoders), list(sizes)

    def check_supported(self) -> None:
        """Raise a UserError unless each of them can be asked token by token."""
        for decoder in self.members:
            check_supported(decoder)

    def cached(self, memory: torch.Tensor, lens: torch.Tensor) -> "_MeanCachedDecoder":
        """What asks all of them token by token; ``memory`` holds their encoders' outputs side by side."""
        parts = memory.split(self.sizes, dim=-1)
        return _MeanCachedDecoder(
            [CachedDecoder(*each, lens) for each in zip(self.members, parts, strict=True)]
        )


class _MeanCachedDecoder:
    """As `CachedDecoder`, of several decoders."""

    def __init__(self, members: Sequence[CachedDecoder]):
        self.members = members

    def step(self, prefix: torch.Tensor) -> torch.Tensor:
        """Log of the mean posterior of the next token (B, N, V) after each prefix (B, N, U)."""
        return _log_mean([member.step(prefix) for member in self.members])

    def select(self, parents: torch.Tensor) -> None:
        """Continue from other hypotheses, (B, N')."""
        for member in self.members:
            member.select(parents)

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these, (B',)."""
        for member in self.members:
            member.keep(utterances)


def _log_mean(logp: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean of probabilities that are given as logarithms."""
    return torch.logsumexp(torch.stack(list(logp)), dim=0) - math.log(len(logp))


def _check(models: Sequence[torch.nn.Module], model_dirs: Sequence[Path]) -> None:
    if len({folder.resolve() for folder in model_dirs}) < len(model_dirs):
        raise UserError(f"--model_dir {' '.join(map(str, model_dirs))}: a model occurs twice")
    one, where = models[0].export_config, model_dirs[0]
    for model, folder in zip(models[1:], model_dirs[1:], strict=True):
        for name in SHARED:
            if model.export_config.get(name) != one.get(name):
                raise UserError(
                    f"{folder}/config.yaml: {name} differs from that in {where}/config.yaml; models that "
                    "decode together have the same tokens and read the same speech"
                )
        rates = [(each.get("frontend_conf") or {}).get("fs", 16000) for each in (one, model.export_config)]
        if rates[0] != rates[1]:
            raise UserError(f"{folder} reads audio at {rates[1]} Hz, {where} at {rates[0]} Hz")
