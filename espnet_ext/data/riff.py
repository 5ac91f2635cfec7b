"""WAV files (RIFF) as what they are, a list of chunks, where libsndfile says too little or is too slow."""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

#: A data size from here on in a header means "length unknown": the file was written through a pipe.
_UNKNOWN_SIZE = 0x7FFF0000
#: Format tag, channels and bits per sample of what `read_plain` reads: whole numbers, mono, 16 bits.
_PLAIN = (1, 1, 16)


def is_cut_short(path: str | os.PathLike) -> bool:
    """Whether a WAV file ends before its data chunk does; libsndfile reads such a file without complaint."""
    size = os.path.getsize(path)
    with open(path, "rb") as handle:
        if not _is_wav(handle):
            return False
        for name, start, length in _chunks(handle):
            if name == b"data":
                return length < _UNKNOWN_SIZE and start + length > size
    return True


def read_plain(path: str | os.PathLike, length: int) -> np.ndarray | None:
    """Samples (T,) int16 of a mono 16-bit WAV file that holds ``length`` of them, None for anything else.

    Twice as fast as libsndfile.

    Raises:
        OSError: the file cannot be read.
    """
    found = read_rated(path, length)
    return None if found is None else found[1]


def read_rated(path: str | os.PathLike, length: int) -> tuple[int, np.ndarray] | None:
    """As `read_plain`, with the sampling rate before the samples."""
    with open(path, "rb") as handle:
        plain, rate = False, 0
        for name, start, size in _chunks(handle) if _is_wav(handle) else ():
            if name == b"fmt ":
                tag, channels, rate, bits = struct.unpack("<HHI6xH", handle.read(16).ljust(16, b"\0"))
                plain = (tag, channels, bits) == _PLAIN
            elif name == b"data":
                if not plain or size != 2 * length or start + size > os.fstat(handle.fileno()).st_size:
                    return None
                return rate, np.fromfile(handle, "<i2", length).astype(np.int16, copy=False)
    return None


def _is_wav(handle: BinaryIO) -> bool:
    header = handle.read(12)
    return header[:4] == b"RIFF" and header[8:12] == b"WAVE"


def _chunks(handle: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content starts, bytes of content) of each chunk, the file being at its content."""
    position = 12
    while len(header := handle.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        yield name, position + 8, length
        position += 8 + length + length % 2
        handle.seek(position)
