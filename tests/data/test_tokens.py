"""Stage 4: the token list, as ESPnet's own classes understand it."""

import random
from pathlib import Path

import pytest

from espnet_ext.bin import make_tokens
from espnet_ext.data.tokens import Tokenizer

WORDS = "one two three four five six seven eight nine ten red green blue cat dog bird sings sleeps".split()


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    Path("text").write_text(
        "".join(f"utt-{number:03d} {' '.join(draw.choices(WORDS, k=5))}\n" for number in range(100))
    )
    return Path("text")


def run(*arguments) -> int:
    return make_tokens.main([*map(str, arguments)])


def tokenizer(folder="tok", token_type="unigram") -> Tokenizer:
    model = None if token_type == "char" else Path(folder) / "bpe.model"
    return Tokenizer(Path(folder) / "tokens.txt", token_type, model)


@pytest.mark.parametrize("token_type", ["unigram", "bpe", "char"])
def test_same_numbers_as_espnet(text, token_type):
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    assert run("--text", text, "--out_dir", "tok", "--token_type", token_type, "--nbpe", 40) == 0
    ours = tokenizer(token_type=token_type)
    if token_type != "char":
        assert len(ours) == 40
    espnet = build_tokenizer(
        token_type="char" if token_type == "char" else "bpe",
        bpemodel=None if token_type == "char" else "tok/bpe.model",
        space_symbol="<space>",
    )
    converter = TokenIDConverter("tok/tokens.txt")
    for sentence in ("one two three", "birds sing", "one ZEBRA é", "one", "  two  dogs "):
        assert ours.encode(sentence) == converter.tokens2ids(espnet.text2tokens(sentence))
    assert ours.unknown in ours.encode("ZEBRA")


def test_deterministic_and_from_several_files(text):
    Path("more").write_text("a zebra\nb xylophone\n")
    for out in ("one", "two"):
        assert run("--text", text, "more", "--out_dir", out, "--nbpe", 45) == 0
    for name in ("tokens.txt", "bpe.model"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    assert tokenizer("one").outside("zebra xylophone") == []
    tokens = Path("one/tokens.txt").read_text().splitlines()
    assert (
        tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>" and len(set(tokens)) == len(tokens)
    )


def test_long_lines_are_not_left_out(text):
    Path("long").write_text("a " + "zebra " * 2000 + "\n")
    assert run("--text", text, "long", "--out_dir", "tok", "--nbpe", 45) == 0
    assert tokenizer().outside("zebra") == []


def test_impossible_sizes(text, fails):
    for token_type in ("unigram", "bpe"):
        arguments = ("--text", text, "--out_dir", "tok", "--token_type", token_type, "--nbpe")
        message = fails(make_tokens.main, *arguments, 5000)
        assert "--nbpe 5000 is too large for the text in text; the largest possible is " in message
        assert run(*arguments, message.split()[-1]) == 0
        message = fails(make_tokens.main, *arguments, 5)
        assert "--nbpe 5 is too small for the characters in text; the least possible is " in message
        assert run(*arguments, message.split()[-1]) == 0


def test_bad_texts(text, fails):
    arguments = ("--out_dir", "tok", "--nbpe", 40, "--text")
    assert "absent: no such file" in fails(make_tokens.main, *arguments, text, "absent")
    Path("blank").write_text("a\nb\n")
    assert "blank: all sentences are empty" in fails(make_tokens.main, *arguments, "blank")
    Path("latin").write_bytes(b"a caf\xe9\n")
    assert "latin:1: not UTF-8" in fails(make_tokens.main, *arguments, "latin")
    Path("twice").write_text("a one\na two\n")
    assert "twice:2: id 'a' occurs already in twice:1" in fails(make_tokens.main, *arguments, "twice")
    assert not Path("tok").exists()


@pytest.mark.parametrize("token_type", ["unigram", "char"])
def test_characters_outside_are_reported(text, capsys, token_type):
    Path("dev").write_text("a one two\nb café QUIZ\nc three\nd fiancé\n")
    assert (
        run(
            "--text",
            text,
            "--out_dir",
            "tok",
            "--nbpe",
            40,
            "--token_type",
            token_type,
            "--check_text",
            "dev",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "dev: 2 of 4 sentences hold characters outside the token list" in out
    assert "'é' x2" in out and "first at dev:2" in out and "'Q' x1" in out


def test_broken_model_and_list(text, fails):
    from espnet_ext.errors import UserError

    assert run("--text", text, "--out_dir", "tok", "--nbpe", 40) == 0
    model = Path("tok/bpe.model")
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        tokenizer()
    model.unlink()
    with pytest.raises(UserError, match="no such SentencePiece model"):
        tokenizer()
    Path("tok/tokens.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="tokens.txt: expected <blank>, <unk>"):
        tokenizer(token_type="char")
