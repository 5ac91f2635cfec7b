"""Folders that are no teachers, harmful ones among them; the look that says so before work begins."""

import json

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.teachers import load_teacher, look
from tests.lm_transfer.conftest import embed


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
