"""A small bidirectional language model over the recogniser's own tokens (BERT, Devlin et al. 2019).

Legend: B sentences, S tokens with <sos/eos> at both ends, E size, V tokens of the recogniser.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.lm.text_data import with_ends
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.teachers import SubWords, combine_layers, weights_digest
from espnet_ext.train.init_param import load_state

#: Files of a trained LM's folder.
OPTIONS_FILE, WEIGHTS_FILE = "lm.yaml", "lm.pth"


class MaskedLM(torch.nn.Module):
    """Transformer encoder that says which token stands where one was masked.

    Args:
        vocabulary: V; number V is the mask.
        size: E.
        heads, blocks, dropout_rate: of the Transformer.
    """

    def __init__(
        self, vocabulary: int, size: int = 128, heads: int = 4, blocks: int = 4, dropout_rate: float = 0.1
    ):
        super().__init__()
        self.vocabulary, self.size = vocabulary, size
        self.embed = torch.nn.Embedding(vocabulary + 1, size)
        torch.nn.init.normal_(self.embed.weight, std=size**-0.5)
        self.dropout = torch.nn.Dropout(dropout_rate)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                size, heads, 4 * size, dropout_rate, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.norm = torch.nn.LayerNorm(size)
        self.bias = torch.nn.Parameter(torch.zeros(vocabulary))

    def states(self, ids: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Output of every block (B, S, E); the last one's is normalised.

        Args:
            ids: (B, S) tokens, padded with anything below V.
            lengths: (B,).
        """
        padding = torch.arange(ids.size(1), device=ids.device) >= lengths[:, None]
        x = self.embed(ids) * math.sqrt(self.size) + _positions(ids.size(1), self.size).to(ids.device)
        x = self.dropout(x)
        found = []
        for block in self.blocks:
            x = block(x, src_key_padding_mask=padding)
            found.append(x)
        return [*found[:-1], self.norm(found[-1])]

    def scores(self, state: torch.Tensor) -> torch.Tensor:
        """(..., V) scores before the softmax of states (..., E), with the input's embeddings."""
        return torch.nn.functional.linear(state, self.embed.weight[: self.vocabulary], self.bias)


def tokens_digest(tokens: Sequence[str]) -> str:
    """SHA-256 of a token list."""
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


class MaskedLMTeacher:
    """A model that `lm_train` wrote; its sub-words are the recogniser's tokens, so that alignment is trivial.

    Args:
        folder: of the model.
        tokenizer: the recogniser's tokens, which must be the model's.
        layers: see `espnet_ext.lm_transfer.teachers.layer_choice`.
        device: where it computes.

    Raises:
        UserError: a file is missing or damaged, or the model has other tokens.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: SpanTokenizer,
        layers: str = "last",
        device: str | torch.device = "cpu",
    ):
        tokens, shape = _about(folder / OPTIONS_FILE)
        if tokens != tokens_digest(tokenizer.tokens):
            raise UserError(
                f"{folder}: this LM was trained with another token list than the recogniser's; train it "
                "again (stage 6), or give a HuggingFace LM, whose tokens may differ"
            )
        self.tokenizer, self.layers, self.device = tokenizer, layers, torch.device(device)
        self.model = MaskedLM(len(tokenizer), **shape)
        state = load_state(folder / WEIGHTS_FILE)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"{folder / WEIGHTS_FILE}: does not fit {OPTIONS_FILE} beside it; train it again (stage 6): "
                f"{error}"
            ) from None
        self.model.to(self.device).eval().requires_grad_(False)
        self.size = self.model.size
        combine_layers([torch.zeros(1)] * len(self.model.blocks), layers)
        self.identity = {"kind": "masked_lm", "weights": weights_digest(state), "layers": layers}

    def split(self, text: str) -> SubWords:
        """The recogniser's tokens."""
        return SubWords(self.tokenizer.encode(text), None)

    @torch.no_grad()
    def embed(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `Teacher.embed`."""
        ids, lengths = with_ends(sequences, len(self.tokenizer) - 1)
        states = self.model.states(ids.to(self.device), lengths.to(self.device))
        found = combine_layers(states, self.layers).cpu().numpy()
        return [state[1 : len(each) + 2] for state, each in zip(found, sequences, strict=True)]


def _about(path: Path) -> tuple[str, dict]:
    """Digest of the tokens, and the model's options.

    Raises:
        UserError: it is not what `write_lm` writes.
    """
    try:
        about = yaml.safe_load("\n".join(line for _, line in read_lines(path)))
        shape = {name: about["model"][name] for name in ("size", "heads", "blocks", "dropout_rate")}
        if not all(isinstance(value, (int, float)) for value in shape.values()):
            raise ValueError("options of a model are numbers")
        return about["tokens"], shape
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: is not what lm_train writes; train the language model again (stage 6)"
        ) from None


def _positions(length: int, size: int) -> torch.Tensor:
    """(S, E) sines and cosines (Vaswani et al. 2017, section 3.5): no longest sentence."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * (-math.log(10000.0) / size))
    return torch.stack([(position * rate).sin(), (position * rate).cos()], dim=-1).flatten(1)[:, :size]
