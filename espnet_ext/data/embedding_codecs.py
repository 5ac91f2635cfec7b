"""How a frame of an embedding is stored: fp16, 8 bits a number, or residual vector quantisation.

Legend: T frames, E numbers of an embedding, C codebooks, K = 256 codes of each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from espnet_ext.data.stored import AGAIN, read_arrays
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path

CODES = 256
CODEBOOKS_FILE = "codebooks.npz"


class Codec(Protocol):
    """Frames to bytes and back; `row_bytes` is the size of one."""

    row_bytes: int

    def encode(self, frames: np.ndarray) -> bytes:
        """Bytes of (T, E) frames."""

    def rows(self, data: bytes) -> np.ndarray:
        """What stands in the file, (T, ...), without decoding it."""

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """(T, E) float32 of what `rows` returned."""


def codebooks_of(storage: str) -> int:
    """C of a storage `rvqC` (8 unless given), 0 of the others.

    Raises:
        UserError: there is no such storage.
    """
    number = storage.removeprefix("rvq")
    if storage in ("fp16", "int8"):
        return 0
    if storage.startswith("rvq") and (not number or number.isdigit() and 1 <= int(number) <= 64):
        return int(number or 8)
    raise UserError(f"storage {storage}: expected fp16, int8, rvq or rvqN with N codebooks (bytes a frame)")


def make_codec(storage: str, size: int, folder: Path | None = None) -> Codec:
    """The codec of a storage.

    Args:
        storage: see `codebooks_of`.
        size: E.
        folder: of the store, where quantisation finds its codebooks when it needs them.
    """
    if codebooks_of(storage):
        return ResidualQuantiser(codebooks_of(storage), size, folder)
    return Fp16(size) if storage == "fp16" else Int8(size)


class Fp16:
    """Half precision."""

    def __init__(self, size: int):
        self.size, self.row_bytes = size, 2 * size

    def encode(self, frames: np.ndarray) -> bytes:
        with np.errstate(over="ignore"):
            small = frames.astype("<f2")
        if not np.isfinite(small).all():
            raise UserError(
                f"an embedding has a number beyond fp16 ({np.abs(frames).max():.3g}); store it with int8, or "
                "choose another layer of the teacher"
            )
        return small.tobytes()

    def rows(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype="<f2").reshape(-1, self.size)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.float32)


class Int8:
    """Each frame in steps of its own: its largest number is 127 of them. The step is an fp32."""

    def __init__(self, size: int):
        self.size, self.row_bytes = size, size + 4

    def encode(self, frames: np.ndarray) -> bytes:
        if not np.isfinite(frames).all():
            raise UserError("an embedding holds a number that is not finite; is the teacher damaged?")
        steps = np.maximum(np.abs(frames).max(1, keepdims=True, initial=0.0) / 127, 1e-30).astype("<f4")
        whole = np.rint(frames / steps).astype(np.int8)
        return np.concatenate([steps.view(np.uint8), whole.view(np.uint8)], axis=1).tobytes()

    def rows(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, self.row_bytes)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        steps = np.ascontiguousarray(rows[:, :4]).view("<f4")
        return rows[:, 4:].view(np.int8).astype(np.float32) * steps


class ResidualQuantiser:
    """Codebook c codes what the codebooks before it have left over (Guo et al. 2022, arXiv 2211.00508).

    The codebooks are in the store's folder; `row_bytes` is known without them.
    """

    def __init__(self, codebooks: int, size: int, folder: Path | None):
        self.size, self.row_bytes, self.folder = size, codebooks, folder
        self._books: np.ndarray | None = None

    @property
    def books(self) -> np.ndarray:
        """(C, K, E) codebooks, and the mean that is subtracted first is in the first of them."""
        if self._books is None:
            path = Path(self.folder or ".") / CODEBOOKS_FILE
            if not path.exists():
                raise UserError(f"{path}: no such file; remove {path.parent} and {AGAIN}")
            shapes = {"books": (self.row_bytes, None, self.size)}
            self._books = read_arrays(path, shapes, f"remove {path.parent} and {AGAIN}")["books"]
        return self._books

    def encode(self, frames: np.ndarray) -> bytes:
        return quantise(frames.astype(np.float32), self.books).tobytes()

    def rows(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, self.row_bytes)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        return sum(self.books[c][rows[:, c]] for c in range(self.row_bytes))


def quantise(frames: np.ndarray, books: np.ndarray) -> np.ndarray:
    """(T, C) uint8 codes of (T, E) frames: in each codebook the code nearest to what is left."""
    left, codes = frames.copy(), np.empty((len(frames), len(books)), dtype=np.uint8)
    for c, book in enumerate(books):
        codes[:, c] = nearest(left, book)
        left -= book[codes[:, c]]
    return codes


def nearest(frames: np.ndarray, book: np.ndarray, block: int = 8192) -> np.ndarray:
    """(T,) number of the code (of K) nearest to each frame."""
    half = 0.5 * np.square(book).sum(1)
    parts = [(frames[i : i + block] @ book.T - half).argmax(1) for i in range(0, len(frames), block)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def train_codebooks(
    frames: np.ndarray, codebooks: int, draw: np.random.Generator, iterations: int = 10
) -> np.ndarray:
    """(C, K, E) codebooks by k-means (Lloyd 1982), one after the other, each on what is left over.

    Args:
        frames: (T, E) sample.
        codebooks: C.
        draw: of the first centres, and of new ones for codes that nobody uses.
        iterations: of each codebook.

    Raises:
        UserError: fewer frames than codes.
    """
    if len(frames) < CODES:
        raise UserError(f"{len(frames)} frames are too few for {CODES} codes; store these embeddings as fp16")
    left, books = frames.astype(np.float32), []
    for _ in range(codebooks):
        book = left[draw.choice(len(left), CODES, replace=False)].copy()
        for _ in range(iterations):
            codes = nearest(left, book)
            order = np.argsort(codes, kind="stable")
            count = np.bincount(codes, minlength=CODES)
            used = np.flatnonzero(count)
            starts = (np.cumsum(count) - count)[used]
            book[used] = np.add.reduceat(left[order], starts, axis=0) / count[used, None]
            empty = np.flatnonzero(count == 0)
            book[empty] = left[draw.choice(len(left), len(empty))]
        books.append(book)
        left = left - book[nearest(left, book)]
    return np.stack(books)


def reconstruction_error(frames: Sequence[np.ndarray] | np.ndarray, books: np.ndarray) -> float:
    """Squared error of decoded frames (T, E) as a part of the frames' variance."""
    frames = np.asarray(frames, dtype=np.float32)
    codes = quantise(frames, books)
    decoded = sum(books[c][codes[:, c]] for c in range(len(books)))
    return float(np.square(frames - decoded).sum() / np.square(frames - frames.mean(0)).sum())


def write_codebooks(folder: Path, books: np.ndarray, error: float) -> None:
    """Write the codebooks of a store, and the error they leave on frames that did not make them."""
    with atomic_path(folder / CODEBOOKS_FILE) as temporary:
        np.savez(temporary, books=books.astype(np.float32), error=error)
