"""Sentences without audio as what the training loop reads.

Legend: B sentences, S tokens with <sos/eos> at both ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_ext.data.kaldi import read_table
from espnet_ext.data.tokens import Tokenizer
from espnet_ext.errors import UserError
from espnet_ext.train.data import Batch
from espnet_ext.train.keys import generator


def with_ends(tokens: Sequence[Sequence[int]], end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sentences with <sos/eos> at both ends: (B, S) padded with it, and lengths (B,)."""
    lengths = torch.tensor([len(each) + 2 for each in tokens])
    ids = torch.full((len(tokens), int(lengths.max())), end)
    for row, each in enumerate(tokens):
        ids[row, 1 : len(each) + 1] = torch.tensor(each, dtype=torch.long)
    return ids, lengths


class TextData:
    """Sentences as token numbers; for the loop what `espnet_ext.train.data.SpeechData` is with speech.

    Args:
        path: `<id> <sentence>` lines.
        tokenizer: the recogniser's tokens.
        most: read no more sentences than this (0: all), spread over the file.

    Raises:
        UserError: an unreadable file, or one without sentences.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, most: int = 0):
        rows = {name: text for name, text in read_table(path, empty_values=True).rows.items() if text}
        if not rows:
            raise UserError(f"{path}: holds no sentences")
        if 0 < most < len(rows):
            names = list(rows)
            chosen = sorted(generator("sentences", most).choice(len(names), most, replace=False))
            rows = {names[i]: rows[names[i]] for i in chosen}
        self.end = len(tokenizer) - 1
        self._tokens = {name: np.array(tokenizer.encode(text), dtype=np.int32) for name, text in rows.items()}
        self.labels = {name: len(tokens) for name, tokens in self._tokens.items()}
        self.lengths = {name: len(tokens) + 2 for name, tokens in self._tokens.items()}

    def batches(
        self, order: Iterable[tuple[str, ...]], num_workers: int = 0, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """Batches of one pass in the given order."""
        return self.load(((0, names) for names in order), num_workers, device)

    def load(
        self,
        order: Iterable[tuple[int, tuple[str, ...]]],
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """Batches in the given order; there is nothing to load, so that no process runs ahead."""
        for _, names in order:
            ids, lengths = with_ends([self._tokens[name] for name in names], self.end)
            yield Batch(list(names), {"ids": ids.to(device), "lengths": lengths.to(device)})
