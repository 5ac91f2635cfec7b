"""Computing the LM's embeddings of all transcripts, once, before training.

Legend: U tokens of the recogniser, S sub-words, E size of an embedding.
"""

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.data.kaldi import read_table
from espnet_ext.data.stored import check_disk, duration
from espnet_ext.errors import UserError
from espnet_ext.files import human
from espnet_ext.lm_transfer.alignment import SpanTokenizer, overlap_weights
from espnet_ext.lm_transfer.masked_lm import tokens_digest
from espnet_ext.lm_transfer.store import TargetStore, TargetWriter
from espnet_ext.lm_transfer.teachers import SubWords, Teacher
from espnet_ext.progress import progress

#: Transcripts that are computed before anything is written, to say how long it will take.
_SAMPLE = 16


def token_embeddings(
    text: str, tokenizer: SpanTokenizer, subwords: SubWords, embeddings: np.ndarray
) -> np.ndarray:
    """Embedding of each of the recogniser's tokens of a transcript, and of `<eos>`.

    Args:
        text: the transcript.
        tokenizer: the recogniser's.
        subwords: what the teacher made of the transcript.
        embeddings: (S + 1, E) of the sub-words and of the separator behind them; nan where there is none.

    Returns:
        (U + 1, E) fp32. A row of nan has no target: no sub-word, or one without an embedding, stands for it.
    """
    if subwords.spans is None:
        return embeddings
    weights = overlap_weights(tokenizer.spans(text), subwords.spans, text)
    absent = np.isnan(embeddings[:-1, 0]) if len(embeddings) > 1 else np.zeros(0, dtype=bool)
    found = weights @ np.nan_to_num(embeddings[:-1])
    found[~weights.any(1) | weights[:, absent].any(1)] = np.nan
    return np.concatenate([found, embeddings[-1:]]).astype(np.float32)


def target_settings(teacher_identity: dict, size: int, tokenizer_identity: dict) -> dict:
    """What decides which embeddings a transcript has."""
    return {"teacher": teacher_identity, "size": size, "recogniser": tokenizer_identity}


def tokenizer_identity(tokens: Sequence[str], token_type: str, bpemodel: str | Path | None) -> dict:
    """What decides how a transcript becomes tokens; a SentencePiece model is told by its bytes."""
    model = "" if token_type == "char" or not bpemodel else tokens_digest([Path(bpemodel).read_bytes().hex()])
    # ESPnet calls every SentencePiece model bpe.
    return {"tokens": tokens_digest(tokens), "characters": token_type == "char", "model": model}


@dataclass
class Plan:
    """What a dump has to do."""

    transcripts: int  # different ones
    missing: list[str]  # of them not in the store, the shortest first
    rows: int  # that they need
    bytes: int
    seconds: float  # measured on a few of them


class Dump:
    """Writes the targets of the transcripts of some `text` files.

    Args:
        train: files of the training sets: mean, deviation and tokens' means are taken over them.
        others: files of further sets, the validation set's.
        tokenizer: the recogniser's tokens.
        identity: of the tokenizer, see `tokenizer_identity`.
        teacher: computes the embeddings.
        folder: of the store.
        batch_size: transcripts that the teacher reads at once.

    Raises:
        UserError: an unreadable file.
    """

    def __init__(
        self,
        train: Sequence[Path],
        others: Sequence[Path],
        tokenizer: SpanTokenizer,
        identity: dict,
        teacher: Teacher,
        folder: Path,
        batch_size: int = 32,
    ):
        self.tokenizer, self.teacher, self.folder, self.batch_size = tokenizer, teacher, folder, batch_size
        self.train, other = _transcripts(train), _transcripts(others)
        self.texts = list(dict.fromkeys([*self.train, *other]))
        self.settings = target_settings(teacher.identity, teacher.size, identity)

    def plan(self, present: Container[str]) -> Plan:
        """Count what is missing and measure how long it will take.

        Args:
            present: transcripts that need not be computed.

        Raises:
            UserError: the disk is too small.
        """
        missing = sorted((text for text in self.texts if text not in present), key=lambda t: (len(t), t))
        rows = sum(len(self.tokenizer.pieces(text)) + 1 for text in missing)
        size = rows * self.teacher.size * 2
        check_disk(self.folder, size, "give another folder, or an LM of a smaller size")
        # The shortest and the longest and some between: a mean over them is the mean over all, about.
        sample = missing[:: max(1, -(-len(missing) // _SAMPLE))]
        start = time.perf_counter()
        for first in range(0, len(sample), self.batch_size):
            self.compute(sample[first : first + self.batch_size])
        seconds = (time.perf_counter() - start) * len(missing) / max(1, len(sample))
        return Plan(len(self.texts), missing, rows, size, seconds)

    def compute(self, texts: Sequence[str]) -> list[np.ndarray]:
        """(U + 1, E) fp32 embeddings of each transcript."""
        cut = [self.teacher.split(text) for text in texts]
        embeddings = self.teacher.embed([each.ids for each in cut])
        return [
            token_embeddings(text, self.tokenizer, subwords, embedding)
            for text, subwords, embedding in zip(texts, cut, embeddings, strict=True)
        ]

    def cost(self) -> str:
        """What `run` would compute, write and take; nothing is written."""
        try:
            store = TargetStore(self.folder)
            present: Container[str] = store if store.describes(self.settings) else ()
        except UserError:
            present = ()
        return self._describe(self.plan(present))

    def run(self) -> str:
        """Say what it will cost, then compute and write what is missing.

        Returns:
            a summary for people.
        """
        writer = TargetWriter(self.folder, self.settings)
        try:
            if writer.replaced:
                print(
                    f"{self.folder}: LM, layers or tokens have changed, all targets are made anew", flush=True
                )
            plan = self.plan(writer)
            print(self._describe(plan), flush=True)
            self._write(writer, plan.missing)
            end = len(self.tokenizer) - 1
            numbers = ([*self.tokenizer.encode(text), end] for text in self.train)
            writer.finish(self.train, numbers, len(self.tokenizer))
            there, whole = int(writer.summary()["rows"]), sum(writer.rows(text) for text in self.train)
        finally:
            writer.close()
        cut = getattr(self.teacher, "cut", 0)
        note = f"; {cut} are longer than the LM's window and were read in parts" if cut else ""
        if absent := 1 - there / max(1, whole):
            note += f"; {absent:.1%} of the training transcripts' tokens have no embedding, and no target"
        return f"{self.folder}: targets of {plan.transcripts} transcripts are complete{note}"

    def _describe(self, plan: Plan) -> str:
        return (
            f"{self.folder}: {plan.transcripts} different transcripts, {len(plan.missing)} to compute: "
            f"{plan.rows} tokens of {self.teacher.size} numbers, {human(plan.bytes)}, "
            f"about {duration(plan.seconds)}"
        )

    def _write(self, writer: TargetWriter, missing: list[str]) -> None:
        # The longest first: should they not fit the memory, it shows at once.
        order = missing[::-1]
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if hasattr(self.teacher, "cut"):
            self.teacher.cut = 0  # what the sample has counted
        for batch in progress(batches, desc="targets", unit="batch"):
            writer.add(batch, self.compute(batch))


def _transcripts(paths: Sequence[Path]) -> list[str]:
    """Different transcripts of some files, in their order; what is empty has no target but <eos>."""
    rows = [
        text for path in paths for text in read_table(path, empty_values=True, value="sentence").rows.values()
    ]
    return list(dict.fromkeys(rows))
