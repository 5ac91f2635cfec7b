"""Embeddings of speech on disk: shards of encoded frames, found by what the audio sounds like.

    settings.json       which teacher, which layer, which frame rate, how frames are stored
    codebooks.npz       of residual vector quantisation alone
    shards/<n>/data     frames of some utterances, one after the other
    shards/<n>/index    `<key> <first byte> <frames> <checksum>` a line; a shard appears whole or not at all
    sets/<n>            utterances of a data directory: `<utterance> <key>` a line
    summary.npz         mean, deviation and covariance over the training sets' frames

An utterance's key is a hash of its samples and their rate. The same recording under another name shares its
frames, a speed-perturbed copy is another recording, and a set whose audio has changed is found out. Files are
read at given positions (pread): processes that share a file do not move each other's.

Legend: T frames, E numbers of an embedding.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from espnet_ext.data.embedding_codecs import Codec, make_codec
from espnet_ext.data.stored import (
    AGAIN,
    FORMAT,
    SETTINGS_FILE,
    SUMMARY_FILE,
    checksum,
    read_settings,
    read_summary,
)
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_dir, atomic_path, atomic_write_text, read_lines


def audio_key(samples: np.ndarray, rate: int) -> str:
    """Name of an utterance's frames: BLAKE2 of its samples (T,) as float32 and of their rate in Hz."""
    digest = hashlib.blake2b(f"{rate}\n".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(samples, dtype="<f4").data)
    return digest.hexdigest()


def content_of(data_dir: str | Path) -> str:
    """Checksum of a dumped set's audio, as stage 3 left it; of its table where there is none."""
    folder = Path(data_dir)
    for name in ("content", "wav.scp"):
        if (folder / name).exists():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise UserError(f"{folder / 'wav.scp'}: no such file; a teacher hears audio: run stage 3 (features), raw")


class EmbeddingStore:
    """Reads what a teacher made of some sets.

    Args:
        folder: of the store.

    Raises:
        UserError: there is none, or it is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.settings = read_settings(self.folder, "storage", "row_bytes", "frame_shift")
        self.size, self.storage = int(self.settings["size"]), str(self.settings["storage"])
        self._check_settings()
        self._codec: Codec | None = None
        self._handles: dict[str, int] = {}
        self.index: dict[str, tuple[str, int, int, str]] = {}
        self.reload()

    def reload(self) -> None:
        """Look for shards again; other processes may have added some."""
        for shard in sorted((self.folder / "shards").glob("[0-9a-f]*")):
            self._read_index(shard)

    @property
    def codec(self) -> Codec:
        """How frames are stored."""
        if self._codec is None:
            self._codec = make_codec(self.storage, self.size, self.folder)
        return self._codec

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def frames(self, key: str) -> int:
        """Number of frames of an utterance that is there."""
        return self.index[key][2]

    def read(self, key: str) -> np.ndarray:
        """(T, E) float32 frames of an utterance.

        Raises:
            KeyError: it is not there.
            UserError: its file is cut short, or damaged.
        """
        return self.codec.decode(self._raw(key))

    def codes(self, key: str) -> np.ndarray:
        """(T, C) the codes of an utterance's frames, of residual vector quantisation alone."""
        return self._raw(key)

    def keys_of(self, data_dir: str | Path) -> dict[str, str]:
        """Keys of the utterances of a data directory.

        Raises:
            UserError: the set was never dumped, or its audio has changed since.
        """
        path = self._set_file(data_dir)
        if not path.exists():
            raise UserError(
                f"{self.folder}: holds no embeddings of {data_dir} (no {path}); run stage 7 (targets)"
            )
        lines = [line for _, line in read_lines(path)]
        if not lines or lines[0] != f"content {content_of(data_dir)}":
            raise UserError(f"{path}: the audio of {data_dir} has changed since; run stage 7 (targets) again")
        rows = [line.split(" ") for line in lines[1:]]
        if not all(len(row) == 2 for row in rows):
            raise UserError(
                f"{path}: expected `<utterance> <key>` a line, was it cut short? Remove it and {AGAIN}"
            )
        return dict(rows)

    def summary(self) -> dict[str, np.ndarray]:
        """`mean` (E,), `covariance` (E, E) over the training frames, `frames`.

        Raises:
            UserError: the dump has not finished, or the file is damaged.
        """
        return read_summary(
            self.folder, {"mean": (self.size,), "covariance": (self.size, self.size), "frames": ()}
        )

    def _check_settings(self) -> None:
        """What says how to read the frames must fit together: a wrong number gives other frames."""
        path = self.folder / SETTINGS_FILE
        try:
            row_bytes = make_codec(self.storage, self.size).row_bytes
        except UserError as error:
            raise UserError(f"{path}: is damaged ({error}); remove {self.folder} and {AGAIN}") from None
        if row_bytes != self.settings["row_bytes"] or self.size < 1:
            raise UserError(
                f"{path}: is damaged (a frame of {self.size} numbers as {self.storage} takes {row_bytes} "
                f"bytes, not {self.settings['row_bytes']}); remove {self.folder} and {AGAIN}"
            )

    def _raw(self, key: str) -> np.ndarray:
        shard, first, frames, check = self.index[key]
        if shard not in self._handles:
            path = self.folder / "shards" / shard
            try:
                self._handles[shard] = os.open(path / "data", os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{path / 'data'}: {error.strerror}; {_again(path)}") from None
        wanted = frames * self.codec.row_bytes
        data = os.pread(self._handles[shard], wanted, first)
        if len(data) != wanted:
            raise UserError(_cut_short(self.folder / "shards" / shard))
        if checksum(key, data) != check:
            folder = self.folder / "shards" / shard
            raise UserError(f"{folder / 'data'}: is damaged (checksum of {key}); {_again(folder)}")
        return self.codec.rows(data)

    def _read_index(self, shard: Path) -> None:
        try:
            rows = [line.split() for _, line in read_lines(shard / "index")]
            entries = {key: (shard.name, int(first), int(n), check) for key, first, n, check in rows}
            expected = int(self.settings["row_bytes"]) * sum(frames for _, _, frames, _ in entries.values())
            size = (shard / "data").stat().st_size
        except (UserError, ValueError, OSError) as error:
            raise UserError(f"{shard}: {error}; {_again(shard)}") from None
        if size != expected:
            raise UserError(_cut_short(shard))
        self.index |= entries

    def _set_file(self, data_dir: str | Path) -> Path:
        name = hashlib.sha256(os.path.normpath(data_dir).encode()).hexdigest()[:16]
        return self.folder / "sets" / name

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handles": {}}


class EmbeddingWriter(EmbeddingStore):
    """Adds shards to a store; several processes may, each with shards of its own.

    Args:
        folder: of the store.
        settings: plain values that decide what the embeddings are, with `size` and `storage`.
        replace: remove what the folder holds of other settings, instead of refusing it.

    Raises:
        UserError: the folder holds embeddings of other settings.
    """

    def __init__(self, folder: str | Path, settings: Mapping, replace: bool = False):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        row_bytes = make_codec(settings["storage"], settings["size"]).row_bytes
        wanted = json.loads(json.dumps({"format": FORMAT, "row_bytes": row_bytes, **settings}))
        # Jobs begin together: none may write what another is about to remove.
        with locked(folder):
            self.replaced = _claim(folder, wanted, replace)
        super().__init__(folder)

    def add_shard(self, items: Mapping[str, np.ndarray]) -> None:
        """Write frames (T, E) by key as one shard: all of them are on the disk when this returns, or none.

        Raises:
            UserError: a number that the storage cannot hold, or another dump has claimed the folder since.
        """
        name = hashlib.sha256("\n".join(sorted(items)).encode()).hexdigest()[:16]
        # Other jobs wait while the folder is held: what takes long comes before.
        encoded = {key: self.codec.encode(frames) for key, frames in items.items()}
        place, lines = 0, []
        with self._still_own(), atomic_dir(self.folder / "shards" / name) as temporary:
            with open(temporary / "data", "wb") as handle:
                for key, data in encoded.items():
                    lines.append(f"{key} {place} {len(items[key])} {checksum(key, data)}\n")
                    place += handle.write(data)
            (temporary / "index").write_text("".join(lines), encoding="ascii")
        self._read_index(self.folder / "shards" / name)

    def write_set(self, data_dir: str | Path, keys: Mapping[str, str]) -> None:
        """Record which utterances a data directory has."""
        lines = "".join(f"{utterance} {key}\n" for utterance, key in keys.items())
        with self._still_own():
            atomic_write_text(self._set_file(data_dir), f"content {content_of(data_dir)}\n{lines}")

    def finish(self, keys: Sequence[str]) -> None:
        """Write the summary over the frames of these utterances: without it a store is not complete."""
        with self._still_own():
            pass
        count, total = 0, np.zeros(self.size)
        squares = np.zeros((self.size, self.size))
        for key in keys:
            frames = self.read(key).astype(np.float64)
            count += len(frames)
            total += frames.sum(0)
            squares += frames.T @ frames
        if not count:
            raise UserError(f"{self.folder}: not one frame was stored")
        mean = total / count
        with self._still_own(), atomic_path(self.folder / SUMMARY_FILE) as temporary:
            np.savez(temporary, mean=mean, covariance=squares / count - np.outer(mean, mean), frames=count)

    @contextlib.contextmanager
    def _still_own(self) -> Iterator[None]:
        """Inside, nobody else makes the folder one of other settings.

        Raises:
            UserError: somebody has: shards of both would have the same names.
        """
        with locked(self.folder):
            if read_settings(self.folder) != self.settings:
                raise UserError(
                    f"{self.folder / SETTINGS_FILE}: another dump has made this store one of other settings; "
                    "wait for its end, and give this one another folder"
                )
            yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, this process alone; others wait."""
    import fcntl

    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claim(folder: Path, wanted: dict, replace: bool) -> bool:
    """Make a folder one of these settings; returns whether it held other ones."""
    path, found = folder / SETTINGS_FILE, None
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if found == wanted:
            return False
        if not replace:
            found = found if isinstance(found, dict) else {}
            names = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
            raise UserError(
                f"{path}: these embeddings are of other settings ({', '.join(names)} differ); give "
                "another folder, or --replace to remove them"
            )
        _empty(folder)
    atomic_write_text(path, json.dumps(wanted, indent=1, sort_keys=True) + "\n")
    return found is not None


def _cut_short(shard: Path) -> str:
    return f"{shard / 'data'}: was cut short; {_again(shard)}"


def _again(shard: Path) -> str:
    return f"remove {shard} and {AGAIN}"


def _empty(folder: Path) -> None:
    """Remove a store's content; the settings go first: without them the rest counts as nothing."""
    import shutil

    for name in (SETTINGS_FILE, SUMMARY_FILE, "codebooks.npz"):
        (folder / name).unlink(missing_ok=True)
    for name in ("shards", "sets"):
        shutil.rmtree(folder / name, ignore_errors=True)
