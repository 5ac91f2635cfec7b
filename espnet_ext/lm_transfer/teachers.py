"""Language models that give an embedding to every piece of a transcript, and how they are told apart.

Legend: S sub-words, E size of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from espnet_ext.asr.digest import weights_digest  # noqa: F401  (part of this interface)
from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.alignment import Span, SpanTokenizer


class SubWords(NamedTuple):
    """A transcript as an LM reads it, without its special tokens."""

    ids: list[int]
    spans: list[Span] | None  # characters of each; None: the sub-words are the recogniser's own tokens


class Teacher(Protocol):
    """What computes targets.

    Attributes:
        size: E.
        identity: plain values that say what the embeddings are: weights, tokens, layers. Two teachers of the
            same identity give the same embeddings.
    """

    size: int
    identity: dict

    def split(self, text: str) -> SubWords:
        """Cut a transcript into sub-words."""

    def embed(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Embeddings of transcripts that `split` has cut.

        Returns:
            for each (S + 1, E) fp32: its sub-words', then that of the separator that ends it. A row of nan is
            a piece without an embedding.
        """


def layer_choice(layers: str) -> tuple[str, int]:
    """Parse which of an LM's layers make the embedding.

    Args:
        layers: `last`, `mean:K` (of the last K) or `sum` (of all, as Liu et al. 2020).

    Raises:
        UserError: something else.
    """
    kind, _, number = layers.partition(":")
    if layers in ("last", "sum") or (kind == "mean" and number.isdigit() and int(number) > 0):
        return kind, int(number or 1)
    raise UserError(f"--layers {layers}: expected last, mean:K (mean of the last K layers) or sum (of all)")


def combine_layers(states: Sequence[torch.Tensor], layers: str) -> torch.Tensor:
    """Make one embedding of the outputs of an LM's layers.

    Args:
        states: output of each layer, the first layer's first, (..., E); the input embedding is not among
        them.
        layers: see `layer_choice`.

    Raises:
        UserError: the LM has fewer layers than asked for.
    """
    kind, number = layer_choice(layers)
    if kind == "sum":
        return torch.stack(list(states)).sum(0)
    if number > len(states):
        raise UserError(f"--layers {layers}: the LM has only {len(states)} layers")
    return torch.stack(list(states[-number:])).mean(0)


def load_teacher(
    place: str,
    tokenizer: SpanTokenizer,
    layers: str = "last",
    case: str = "lower",
    device: str | torch.device = "cpu",
) -> Teacher:
    """Load the teacher that a place holds.

    Args:
        place: a folder that `lm_train` wrote, a HuggingFace folder or hub name, or a table of vectors (a
        file).
        tokenizer: the recogniser's tokens.
        layers: see `layer_choice`; not read by tables.
        case: `lower` shows transcripts to a HuggingFace LM in lower case, `keep` as they are.
        device: where the LM computes.

    Raises:
        UserError: there is nothing of the kind, or it does not fit.
    """
    layer_choice(layers)
    path = Path(place)
    # What is neither a file nor a folder nor the package is a name on the hub.
    if path.is_file():
        from espnet_ext.lm_transfer.table import TableTeacher

        return TableTeacher(path, tokenizer)
    if (path / "lm.yaml").exists():
        from espnet_ext.lm_transfer.masked_lm import MaskedLMTeacher

        return MaskedLMTeacher(path, tokenizer, layers, device)
    from espnet_ext.lm_transfer.huggingface import HuggingFaceTeacher, minilm_folder

    return HuggingFaceTeacher(minilm_folder() if place == "minilm" else place, layers, case, device)


def look(
    place: str, tokenizer: SpanTokenizer, layers: str = "last", case: str = "lower", blocks: int | None = None
) -> str:
    """Say what teacher a place holds, without computing anything.

    Args:
        place, tokenizer, layers, case: as `load_teacher`.
        blocks: of the small masked LM that is still to be trained there; None: the teacher must be there,
            or be a name on the hub, where nothing is looked for.

    Raises:
        UserError: as `load_teacher`.
    """
    layer_choice(layers)
    if blocks is not None:
        combine_layers([torch.zeros(1)] * blocks, layers)
        return f"{place}: a masked language model of {blocks} layers, which stage 6 trains"
    if not Path(place).exists() and place != "minilm" and not place.startswith((".", "/")):
        return f"{place}: no file or folder: stage 7 looks for a model of this name on the HuggingFace hub"
    teacher = load_teacher(place, tokenizer, layers, case)
    note = getattr(teacher, "note", "")  # indented: for the screen
    return f"{place}: {teacher.identity['kind']}, embeddings of {teacher.size} numbers{note}"
