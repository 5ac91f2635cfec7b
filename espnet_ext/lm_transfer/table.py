"""A static table of vectors as teacher: the same embedding wherever a word or token stands.

Legend: S pieces, E size of an embedding.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_ext.data.tokens import SOS_EOS
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.teachers import SubWords

#: Names under which a table may hold the vector of a sentence's end.
_END = ("</s>", SOS_EOS, "[SEP]")


class TableTeacher:
    """Vectors in word2vec's text format: `<word> <number> ...` a line, with or without a first line
    `<words> <size>`.

    A table that holds most of the recogniser's own tokens is read token by token, another one word by word
    (as it is written, or in lower case). Where tokens are characters they must also be most of the table: one
    of words has vectors of `a`, `b`, `c` too. What it lacks has no target.

    Args:
        path: the file.
        tokenizer: the recogniser's tokens.

    Raises:
        UserError: not such a file; the message names the line.
    """

    def __init__(self, path: Path, tokenizer: SpanTokenizer):
        self.path, self.tokenizer = path, tokenizer
        self._rows, vectors = _read(path)
        self.size = vectors.shape[1]
        unknown = np.full((1, self.size), np.nan, dtype=np.float32)
        self._vectors = np.concatenate([vectors, unknown])  # row -1 is the last
        plain = tokenizer.tokens[2:-1]  # without <blank>, <unk>, <sos/eos>
        known = sum(token in self._rows for token in plain)
        self.by_token = known > len(plain) / 2 and (not tokenizer.characters or known > len(self._rows) / 2)
        self.note = f"\n  read {'token by token' if self.by_token else 'word by word'}"
        self.identity = {
            "kind": "table",
            "table": hashlib.sha256(path.read_bytes()).hexdigest(),
            "by_token": self.by_token,
        }

    def split(self, text: str) -> SubWords:
        """Rows of the table, -1 for what it lacks."""
        if self.by_token:
            return SubWords([self._rows.get(piece, -1) for piece in self.tokenizer.pieces(text)], None)
        words = list(re.finditer(r"\S+", text))
        found = [self._rows.get(word[0], self._rows.get(word[0].lower(), -1)) for word in words]
        return SubWords(found, [word.span() for word in words])

    def embed(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `Teacher.embed`."""
        end = next((self._rows[name] for name in _END if name in self._rows), -1)
        return [self._vectors[[*ids, end]] for ids in sequences]


def _read(path: Path) -> tuple[dict[str, int], np.ndarray]:
    rows: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    announced: list[int] = []  # words and size, by the first line
    lines = 0
    for number, line in read_lines(path):
        # No other white space: real tables have words with a no-break space.
        fields = re.split("[ \t]+", line.strip(" \t"))
        if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
            announced = [int(field) for field in fields]
            continue
        lines += 1
        try:
            vector = np.array([float(field) for field in fields[1:]], dtype=np.float32)
        except ValueError:
            vector = np.zeros(0, dtype=np.float32)
        if not len(vector) or (vectors and len(vector) != len(vectors[0])) or not np.isfinite(vector).all():
            wanted = f"{len(vectors[0])} numbers" if vectors else "numbers"
            raise UserError(f"{path}:{number}: expected a word and {wanted}, found {line[:40]!r}")
        if fields[0] not in rows:  # the first of several counts, as in word2vec's own tools
            rows[fields[0]] = len(vectors)
            vectors.append(vector)
    if not vectors:
        raise UserError(f"{path}: holds no vectors")
    if announced and announced != [lines, len(vectors[0])]:
        raise UserError(
            f"{path}: its first line announces {announced[0]} words of {announced[1]} numbers, and there are "
            f"{lines} of {len(vectors[0])}; was it cut short? (Without such a line it is taken as it is.)"
        )
    return rows, np.stack(vectors)
