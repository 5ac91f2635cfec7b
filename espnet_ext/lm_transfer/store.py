"""Embeddings on disk: one file of fp16 rows, one index by transcript, and what is known about all of them.

    settings.json   the teacher's identity, the tokens, the size of an embedding
    targets.f16     rows of E numbers, transcript after transcript: its tokens' embeddings, then that of <eos>
    index.txt       `<key> <first row> <rows> <checksum>` a line, written after the rows are
    summary.npz     mean and standard deviation over the training transcripts, mean of each token

A transcript's key is a hash of its text and of the settings: speed-perturbed copies share its rows, a changed
text has another key, and a dump that was interrupted goes on behind the last line of the index.

Legend: U tokens with <eos>, V tokens of the recogniser, E size of an embedding.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from espnet_ext.data.stored import FORMAT, SETTINGS_FILE, SUMMARY_FILE, checksum, read_settings, read_summary
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text

DATA_FILE, INDEX_FILE = "targets.f16", "index.txt"


def fingerprint(settings: Mapping) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class TargetStore:
    """Reads embeddings; with `TargetWriter` also written.

    A file is read at given positions (pread), so that processes that share it do not move each other's.

    Args:
        folder: of the store.

    Raises:
        UserError: there is no store, or a damaged one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        self.size = int(self.settings["size"])
        self.fingerprint = fingerprint(self.settings)
        self.index = _read_index(self.folder / INDEX_FILE)
        self._handle = None
        self._check_length()

    def describes(self, settings: Mapping) -> bool:
        """Whether the store is of these settings."""
        return self.settings == json.loads(json.dumps({"format": FORMAT, **settings}))

    def key(self, text: str) -> str:
        """Name of a transcript's rows."""
        return hashlib.sha256(f"{self.fingerprint}\0{text}".encode()).hexdigest()[:32]

    def __contains__(self, text: str) -> bool:
        return self.key(text) in self.index

    def rows(self, text: str) -> int:
        """Number of rows of a transcript that is there."""
        return self.index[self.key(text)][1]

    def read(self, text: str) -> np.ndarray:
        """(U, E) fp16 embeddings of a transcript; a row of nan has none.

        Raises:
            KeyError: the transcript is not there.
            UserError: the file is cut short, or damaged.
        """
        key = self.key(text)
        first, rows, check = self.index[key]
        if self._handle is None:
            self._handle = open(self.folder / DATA_FILE, "rb")
        wanted = rows * self.size * 2
        data = os.pread(self._handle.fileno(), wanted, first * self.size * 2)
        if len(data) != wanted:
            raise UserError(
                f"{self.folder / DATA_FILE}: was cut short; remove {self.folder}, run stage 7 again"
            )
        if checksum(key, data) != check:
            raise UserError(
                f"{self.folder / DATA_FILE}: is damaged (checksum of the rows of {text[:60]!r}); "
                f"remove {self.folder} and run stage 7 (targets) again"
            )
        return np.frombuffer(data, dtype=np.float16).reshape(rows, self.size)

    def summary(self) -> dict[str, np.ndarray]:
        """`mean` (E,), `std` (E,), `token_mean` (V, E), nan for tokens that never occurred, `rows`.

        Raises:
            UserError: the dump has not finished.
        """
        each = {"mean": (self.size,), "std": (self.size,), "token_mean": (None, self.size)}
        return read_summary(self.folder, {"rows": (), **each})

    def _check_length(self) -> None:
        last = max((first + rows for first, rows, _ in self.index.values()), default=0)
        path = self.folder / DATA_FILE
        there = path.stat().st_size if path.exists() else 0
        if there < last * self.size * 2:
            raise UserError(
                f"{path}: holds {there} bytes, its index speaks of {last * self.size * 2}; "
                f"remove {self.folder} and run stage 7 (targets) again"
            )

        end = 0
        for first, rows, _ in sorted(self.index.values()):
            if first < end or rows < 0:  # the writer only ever appends
                raise UserError(
                    f"{self.folder / INDEX_FILE}: is damaged: {rows} rows from row {first} on, where {end} "
                    f"or a later one was expected; remove {self.folder} and run stage 7 (targets) again"
                )
            end = first + rows

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handle": None}


class TargetWriter(TargetStore):
    """Adds transcripts to a store, one process at a time.

    Args:
        folder: of the store; what it holds of other settings is removed.
        settings: plain values that decide what the embeddings are, with `size`.

    Raises:
        UserError: another process is writing it.
    """

    def __init__(self, folder: str | Path, settings: Mapping):
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / ".lock", "w")
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written: {error.strerror} ({error.filename}); give another folder "
                "(--out_dir; of a recipe --expdir)"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another process is writing these targets; wait for it") from None
        settings = {"format": FORMAT, **settings}
        self.replaced = _holds_others(folder, settings)
        if self.replaced:
            # The settings go first: without them the rest counts as nothing.
            for name in (SETTINGS_FILE, SUMMARY_FILE, INDEX_FILE, DATA_FILE):
                (folder / name).unlink(missing_ok=True)
        atomic_write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=1, sort_keys=True) + "\n")
        _repair(folder, int(settings["size"]))
        super().__init__(folder)
        self._next = max((first + rows for first, rows, _ in self.index.values()), default=0)
        self._data = open(folder / DATA_FILE, "ab")
        self._lines = open(folder / INDEX_FILE, "a", encoding="ascii")

    def add(self, texts: Sequence[str], embeddings: Sequence[np.ndarray]) -> None:
        """Write the embeddings (U, E) of some transcripts; they are on the disk when this returns.

        The summary goes first: it is of what there was before.

        Raises:
            UserError: a number that fp16 cannot hold.
            OSError: a full disk; what is half written is cut off by the next writer.
        """
        (self.folder / SUMMARY_FILE).unlink(missing_ok=True)
        try:
            self._add(texts, embeddings)
        except OSError as error:  # a write that fails does not know the name of its file
            error.filename = error.filename or str(self.folder / DATA_FILE)
            raise

    def _add(self, texts: Sequence[str], embeddings: Sequence[np.ndarray]) -> None:
        entries = []
        for text, embedding in zip(texts, embeddings, strict=True):
            with np.errstate(over="ignore"):
                small = embedding.astype(np.float16)
            if np.isinf(small).any():
                raise UserError(
                    f"an embedding of {text[:60]!r} has a number beyond fp16 "
                    f"({np.nanmax(np.abs(embedding)):.3g}); choose other layers of the LM (--layers)"
                )
            data, key = small.tobytes(), self.key(text)
            self._data.write(data)
            entries.append((key, len(embedding), checksum(key, data)))
        self._data.flush()
        os.fsync(self._data.fileno())
        for key, rows, check in entries:
            self.index[key] = (self._next, rows, check)
            self._lines.write(f"{key} {self._next} {rows} {check}\n")
            self._next += rows
        self._lines.flush()

    def finish(self, texts: Iterable[str], tokens: Iterable[Sequence[int]], vocabulary: int) -> None:
        """Write the summary: without it the store is not complete.

        Args:
            texts: training transcripts, each once; their order decides nothing but rounding.
            tokens: numbers of each one's tokens with <eos>, in the same order.
            vocabulary: V.
        """
        total, squares, count = np.zeros(self.size), np.zeros(self.size), 0
        by_token, occurrences = np.zeros((vocabulary, self.size)), np.zeros(vocabulary)
        for text, numbers in zip(texts, tokens, strict=True):
            rows = self.read(text).astype(np.float64)
            there = ~np.isnan(rows[:, 0])
            rows, numbers = rows[there], np.asarray(numbers)[there]
            total += rows.sum(0)
            squares += np.square(rows).sum(0)
            count += len(rows)
            np.add.at(by_token, numbers, rows)
            np.add.at(occurrences, numbers, 1)
        if not count:
            raise UserError(
                f"{self.folder}: not one token has an embedding; do LM and transcripts share a script?"
            )
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        # A dimension that never changes says nothing: it becomes zero, not a division by zero.
        std = np.where(std > 1e-4 * max(std.max(), 1e-30), std, np.inf)
        with np.errstate(invalid="ignore"):
            by_token = by_token / np.where(occurrences, occurrences, np.nan)[:, None]
        found = {"mean": mean, "std": std, "token_mean": by_token}
        with atomic_path(self.folder / SUMMARY_FILE) as temporary:
            np.savez(temporary, rows=count, **{n: v.astype(np.float32) for n, v in found.items()})

    def close(self) -> None:
        """Let other processes write."""
        for handle in (self._data, self._lines, self._lock):
            with contextlib.suppress(OSError):  # what a full disk has refused, it refuses again
                handle.close()


def _holds_others(folder: Path, settings: Mapping) -> bool:
    """Whether there are targets of other settings, which may be removed.

    Raises:
        UserError: the settings are of something else, embeddings of speech say.
    """
    path = folder / SETTINGS_FILE
    own = any((folder / name).exists() for name in (INDEX_FILE, DATA_FILE))
    if not path.exists():
        return own
    if not own and '"recogniser"' not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"{folder}: holds a {SETTINGS_FILE} and no targets of this command; give another folder "
            "(--out_dir)"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(settings))
    except ValueError:
        return True


def _repair(folder: Path, size: int) -> None:
    """Cut off what an interrupted dump has half written: an index line, or rows that no line speaks of."""
    index, data = folder / INDEX_FILE, folder / DATA_FILE
    if not index.exists():
        data.unlink(missing_ok=True)
        return
    raw = index.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        with open(index, "r+b") as handle:
            handle.truncate(len(whole))
    last = max((first + rows for first, rows, _ in _read_index(index).values()), default=0)
    if data.exists() and data.stat().st_size > last * size * 2:
        with open(data, "r+b") as handle:
            handle.truncate(last * size * 2)


def _read_index(path: Path) -> dict[str, tuple[int, int, str]]:
    index = {}
    if path.exists():
        # What follows the last newline is being written just now, or was when the power went.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                key, first, rows, check = line.decode("ascii").split()
                index[key] = int(first), int(rows), check
            except ValueError:
                shown = line[:60].decode("ascii", "replace")
                raise UserError(
                    f"{path}:{number}: expected `<key> <first row> <rows> <checksum>`, found {shown!r}; "
                    f"remove {path.parent} and run stage 7 (targets) again"
                ) from None
    return index
