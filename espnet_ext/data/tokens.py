"""Stage 4: the token list, and text to token numbers exactly as ESPnet does it.

``tokens.txt`` is ESPnet's: ``<blank>``, ``<unk>``, tokens, ``<sos/eos>``. ``bpe.model`` is SentencePiece's.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from espnet_ext.data.kaldi import Table, read_table
from espnet_ext.data.outdir import output_dir
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines

TOKEN_TYPES = ("unigram", "bpe", "char")
BLANK, UNKNOWN, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
TOKENS_FILE, MODEL_FILE = "tokens.txt", "bpe.model"
#: SentencePiece's own first three pieces: <unk>, <s>, </s>.
_OWN_PIECES = 3
#: SentencePiece's mark of a word's beginning.
_WORD_BEGIN = "\u2581"


class Tokenizer:
    """Text to token numbers. Characters without a token become ``<unk>``."""

    def __init__(self, token_list: Path, token_type: str, bpemodel: Path | None = None):
        """Load a token list.

        Args:
            token_list: ``tokens.txt``, one token a line.
            token_type: one of TOKEN_TYPES.
            bpemodel: SentencePiece model, needed unless ``token_type`` is ``char``.

        Raises:
            UserError: a file is missing or is not what it should be.
        """
        self.tokens = [line for _, line in read_lines(token_list)]
        if self.tokens[:2] != [BLANK, UNKNOWN] or self.tokens[-1] != SOS_EOS:
            raise UserError(f"{token_list}: expected {BLANK}, {UNKNOWN}, tokens and {SOS_EOS}, one a line")
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        self.unknown = self._ids[UNKNOWN]
        self._sentencepiece = None
        if token_type != "char":
            self._sentencepiece = _load_sentencepiece(bpemodel)

    def __len__(self) -> int:
        return len(self.tokens)

    def pieces(self, text: str) -> list[str]:
        """The text's pieces, whether or not they are in the token list."""
        if self._sentencepiece is None:
            return [SPACE if character == " " else character for character in text]
        return self._sentencepiece.EncodeAsPieces(text)

    def encode(self, text: str) -> list[int]:
        """The text's token numbers."""
        return [self._ids.get(piece, self.unknown) for piece in self.pieces(text)]

    def outside(self, text: str) -> list[str]:
        """The pieces of the text that have no token."""
        return [piece for piece in self.pieces(text) if piece not in self._ids]


def _load_sentencepiece(path: Path | None):
    import sentencepiece

    if path is None:
        raise UserError("--bpemodel is needed with token types unigram and bpe")
    if not path.is_file():
        raise UserError(f"{path}: no such SentencePiece model; run the token stage first")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError):
        raise UserError(
            f"{path}: is not a SentencePiece model (cut short?); run the token stage again"
        ) from None


def make_tokens(texts: list[Path], out_dir: Path, token_type: str, size: int, check: list[Path]) -> str:
    """Write ``tokens.txt`` (and ``bpe.model``) learnt from transcripts.

    Args:
        texts: files of ``<id> <sentence>`` lines to learn from.
        out_dir: directory to write, whole or not at all.
        token_type: one of TOKEN_TYPES.
        size: length of the token list for unigram and bpe; characters take what there are.
        check: further ``<id> <sentence>`` files whose characters outside the token list are reported.

    Returns:
        A summary for people.

    Raises:
        UserError: an unreadable text, or a size the text does not allow.
    """
    tables = [read_table(path, empty_values=True, value="sentence") for path in texts]
    checked = [read_table(path, empty_values=True, value="sentence") for path in check]
    sentences = [" ".join(row.split()) for table in tables for row in table.rows.values() if row]
    if not sentences:
        raise UserError(f"{texts[0]}: all sentences are empty; there is nothing to learn tokens from")
    with output_dir(out_dir, TOKENS_FILE, *(path.parent for path in texts)) as temporary:
        if token_type == "char":
            tokens = _characters(sentences)
        else:
            model = _train_sentencepiece(sentences, token_type, size, texts)
            (temporary / MODEL_FILE).write_bytes(model)
            processor = _load_sentencepiece(temporary / MODEL_FILE)
            tokens = [processor.IdToPiece(number) for number in range(_OWN_PIECES, len(processor))]
        lines = [BLANK, UNKNOWN, *tokens, SOS_EOS]
        (temporary / TOKENS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        tokenizer = Tokenizer(temporary / TOKENS_FILE, token_type, temporary / MODEL_FILE)
        reports = [encode_table(tokenizer, table).report for table in checked]
    return "\n  ".join([f"{out_dir}: {len(lines)} tokens from {len(sentences)} sentences", *reports])


class EncodedTable(NamedTuple):
    """Transcripts as token numbers, and what of them has no token."""

    numbers: dict[str, list[int]]
    outside: float  # fraction of the sentences that hold a character without a token
    report: str  # says which characters, how often, and where first


def encode_table(tokenizer: Tokenizer, table: Table) -> EncodedTable:
    """Encode all transcripts of a file."""
    sentences = {key: " ".join(sentence.split()) for key, sentence in table.rows.items()}
    numbers = {key: tokenizer.encode(sentence) for key, sentence in sentences.items()}
    unknown = [key for key, tokens in numbers.items() if tokenizer.unknown in tokens]
    if not unknown:
        return EncodedTable(numbers, 0.0, f"{table.path}: every character has a token")
    characters = Counter("".join(piece for key in unknown for piece in tokenizer.outside(sentences[key])))
    del characters[_WORD_BEGIN]
    shown = ", ".join(f"{character!r} x{count}" for character, count in characters.most_common(10))
    report = (
        f"{table.path}: {len(unknown)} of {len(numbers)} sentences hold characters outside the token "
        f"list (they become {UNKNOWN}): {shown}; first at {table.where(unknown[0])}"
    )
    return EncodedTable(numbers, len(unknown) / len(numbers), report)


def _characters(sentences: Iterable[str]) -> list[str]:
    """Characters, the most frequent first; ties by code point, so that the order is no accident."""
    counts = Counter(
        SPACE if character == " " else character for sentence in sentences for character in sentence
    )
    return sorted(counts, key=lambda character: (-counts[character], character))


def _train_sentencepiece(sentences: list[str], token_type: str, size: int, texts: list[Path]) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=token_type,
            vocab_size=size,
            character_coverage=1.0,
            # Longer lines would be left out silently.
            max_sentence_length=max(4192, *(len(sentence.encode()) + 1 for sentence in sentences)),
            # Sums over threads would make the result depend on their number.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_size_message(str(error), size, texts)) from None
    return model.getvalue()


def _size_message(error: str, size: int, texts: list[Path]) -> str:
    where = ", ".join(map(str, texts))
    if largest := re.search(r"Vocabulary size too high .* <= (\d+)", error):
        return f"--nbpe {size} is too large for the text in {where}; the largest possible is {largest[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return f"--nbpe {size} is too small for the characters in {where}; the least possible is {least[1]}"
    return f"SentencePiece cannot learn {size} tokens from {where}: {error}"
