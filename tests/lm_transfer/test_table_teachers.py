"""Tables of embeddings, by word or by token, as teachers."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.dump import Dump, token_embeddings
from espnet_ext.lm_transfer.teachers import load_teacher, look
from tests.lm_transfer.conftest import embed


def test_table_by_word(tmp_path, tokenizer):
    (tmp_path / "words.txt").write_text("3 2\nbad 1 2\nCab 3 4\n</s> 5 6\n")
    teacher = load_teacher(str(tmp_path / "words.txt"), tokenizer)
    text = "BAD ace bad"
    found = token_embeddings(text, tokenizer, teacher.split(text), embed(teacher, text))
    expected = np.full((12, 2), np.nan)
    expected[[0, 1, 2, 7, 8, 9, 10]] = [1, 2]  # "ace" is not in the table, nor is the space before it
    expected[11] = [5, 6]
    np.testing.assert_array_equal(found, expected)


def test_table_by_token(tmp_path, tokenizer):
    rows = "".join(f"{token} {number}\n" for number, token in enumerate(tokenizer.tokens[2:]))
    (tmp_path / "tokens.vec").write_text(rows)
    teacher = load_teacher(str(tmp_path / "tokens.vec"), tokenizer)
    text = "a b"
    found = token_embeddings(text, tokenizer, teacher.split(text), embed(teacher, text))
    np.testing.assert_array_equal(found, [[1], [0], [2], [6]])


def test_words_of_one_letter_make_no_table_of_tokens(tmp_path, tokenizer):
    """GloVe has vectors of all letters: a recogniser of characters was taught these, without a word."""
    letters = "".join(f"{letter} 9\n" for letter in "abcde")
    (tmp_path / "glove").write_text(letters + "bad 1\ncab 2\nace 3\nbed 4\ndad 5\n")
    teacher = load_teacher(str(tmp_path / "glove"), tokenizer)
    found = token_embeddings("bad", tokenizer, teacher.split("bad"), embed(teacher, "bad"))
    np.testing.assert_array_equal(found, [[1], [1], [1], [np.nan]])
    assert look(str(tmp_path / "glove"), tokenizer).endswith("of 1 numbers\n  read word by word")


def test_a_dump_says_how_much_has_no_target(tmp_path, tokenizer, write_text):
    (tmp_path / "table").write_text("bad 1\nace 2\n")
    teacher = load_teacher(str(tmp_path / "table"), tokenizer)
    text = write_text("text", {"u": "bad eee"})  # "bad" has one, the space, "eee" and <eos> have none
    said = Dump([text], [], tokenizer, {"recogniser": 1}, teacher, tmp_path / "targets").run()
    assert said.endswith(
        "complete; 62.5% of the training transcripts' tokens have no embedding, and no target"
    )


def test_words_of_real_tables(tmp_path, tokenizer):
    """A word twice (the first counts, and both are in the header's number), a no-break space in another."""
    (tmp_path / "words").write_text("3 1\na 1\nb\u00a0c 2\na 3 \n", encoding="utf-8")
    teacher = load_teacher(str(tmp_path / "words"), tokenizer)
    assert embed(teacher, "a")[0] == [1] and teacher._rows["b\u00a0c"] == 1


@pytest.mark.parametrize(
    "content, message",
    [
        ("a 1 2\nb 1\n", ":2: expected a word and 2 numbers"),
        ("a x\n", ":1: expected a word and numbers"),
        ("a 1 nan\n", ":1: expected a word and numbers"),
        ("", "holds no vectors"),
        ("2 2\n", "holds no vectors"),
        ("3 2\na 1 2\nb 3 4\n", "announces 3 words of 2 numbers, and there are 2 of 2; was it cut short"),
        ("2 3\na 1 2\nb 3 4\n", "announces 2 words of 3 numbers, and there are 2 of 2"),
        ("a 1 2\nb 1 1e39\n", ":2: expected a word and 2 numbers"),
        ("a 1 2\n\nb 1 2\n", ":2: expected a word and 2 numbers"),
        ("² ²\n", ":1: expected a word and numbers"),
    ],
)
def test_broken_table(tmp_path, tokenizer, content, message):
    (tmp_path / "table").write_text(content)
    with pytest.raises(UserError, match=message):
        load_teacher(str(tmp_path / "table"), tokenizer)
