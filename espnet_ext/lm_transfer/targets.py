"""The targets of a batch: stored embeddings, standardised and paired with the labels that they belong to.

Legend: B batch, U labels with <eos>, V tokens of the recogniser, E size of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from espnet_ext.data.kaldi import read_table
from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.store import TargetStore
from espnet_ext.train.data import Batch
from espnet_ext.train.keys import generator

#: What a label's target depends on: its sentence; only the token, by the LM; only the token, by chance.
KINDS = ("contextual", "static", "random")


@dataclass
class TargetBatch:
    """Targets of a batch. `values[:, u]` belongs to label u + 1, the one that state u predicts."""

    values: torch.Tensor  # (B, U, E) fp32; zero where there is none
    there: torch.Tensor  # (B, U) bool


class Targets:
    """Looks up targets by utterance.

    Args:
        store: what stage 7 wrote.
        texts: `text` files of all sets that are asked for.
        vocabulary: V.
        kind: one of KINDS. `static` is the mean of the token's embeddings over the training set, `random` a
            fixed random vector a token (the controls K9 and static).
        standardise: subtract the training set's mean and divide by its deviation, dimension by dimension.
        shift: pair label u with the embedding of label u + shift (a control of the pairing; 0 is right).

    Raises:
        UserError: an unreadable file, an id with two transcripts, or a store that is not complete.
    """

    def __init__(
        self,
        store: TargetStore,
        texts: Sequence[str | Path],
        vocabulary: int,
        kind: str = "contextual",
        standardise: bool = True,
        shift: int = 0,
    ):
        self.store, self.kind, self.shift, self.size = store, kind, shift, store.size
        self.texts: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        for path in texts:
            for utterance, text in read_table(path, empty_values=True, value="sentence").rows.items():
                if self.texts.setdefault(utterance, text) != text:
                    raise UserError(
                        f"{path}: utterance {utterance!r} has another transcript than in "
                        f"{self._sources[utterance]}; training and validation need ids of their own"
                    )
                self._sources[utterance] = str(path)
        summary = store.summary()
        self._mean = summary["mean"] if standardise else np.zeros(self.size, dtype=np.float32)
        self._scale = 1 / summary["std"] if standardise else np.ones(self.size, dtype=np.float32)
        self._table: torch.Tensor | None = None
        if kind == "static":
            if len(summary["token_mean"]) != vocabulary:
                raise UserError(
                    f"{store.folder}: is of {len(summary['token_mean'])} tokens, not {vocabulary}"
                )
            self._table = torch.from_numpy((summary["token_mean"] - self._mean) * self._scale)
        elif kind == "random":
            rows = [
                generator("random target", token).standard_normal(self.size) for token in range(vocabulary)
            ]
            self._table = torch.from_numpy(np.stack(rows).astype(np.float32))

    def check(self, labels: Mapping[str, int]) -> None:
        """Refuse targets that are missing or of other tokens, before training starts.

        Args:
            labels: number of labels (without <eos>) of every utterance that will be asked for.

        Raises:
            UserError: naming the first utterance in trouble.
        """
        missing = [u for u in labels if u not in self.texts or self.texts[u] not in self.store]
        if missing:
            where = self._sources.get(missing[0], "any text file")
            raise UserError(
                f"{self.store.folder}: has no targets of {len(missing)} of {len(labels)} utterances, the "
                f"first is {missing[0]!r} in {where}; transcripts have changed: run stage 7 (targets) again"
            )
        if self.shift and all(self.store.rows(self.texts[u]) <= abs(self.shift) for u in labels):
            raise UserError(
                f"lm_transfer_conf: shift {self.shift}: no transcript has so many labels, so that none would "
                "have a target; expected a few"
            )
        for utterance, count in labels.items():
            rows = self.store.rows(self.texts[utterance])
            if rows != count + 1:
                raise UserError(
                    f"{self.store.folder}: utterance {utterance!r} has {rows} targets for {count} labels and "
                    "<eos>: the targets are of other tokens; run stage 7 (targets) again"
                )

    def batch(self, batch: Batch) -> TargetBatch:
        """Targets of a batch, on its device, standardised."""
        text, lengths = batch.tensors["text"], batch.tensors["text_lengths"].tolist()
        values = torch.zeros(len(lengths), max(lengths) + 1, self.size)
        for row, (utterance, length) in enumerate(zip(batch.utterances, lengths, strict=True)):
            if self._table is None:
                stored = self.store.read(self.texts[utterance]).astype(np.float32)
                own = torch.from_numpy((stored - self._mean) * self._scale)
            else:
                end = len(self._table) - 1  # <sos/eos>
                own = self._table[[*text[row, :length].tolist(), end]]
            values[row, : length + 1] = _shifted(own, self.shift)
            values[row, length + 1 :] = torch.nan
        there = values[..., 0].isnan().logical_not()
        values = values.masked_fill(~there[..., None], 0.0)
        device = text.device
        return TargetBatch(values.to(device, non_blocking=True), there.to(device, non_blocking=True))


def _shifted(rows: torch.Tensor, shift: int) -> torch.Tensor:
    """Row u is what was row u + shift; nan where there is none."""
    if not shift:
        return rows
    found = torch.full_like(rows, torch.nan)
    if abs(shift) < len(rows):
        if shift > 0:
            found[:-shift] = rows[shift:]
        else:
            found[-shift:] = rows[:shift]
    return found
