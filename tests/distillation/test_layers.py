"""Which of a teacher's layers give the embedding: numbers count from 1, `mean:K` is of the last K."""

import pytest
import torch

from espnet_ext.distillation.teachers import LayerTap, choose_layer, layer_choice, load_teacher
from espnet_ext.errors import UserError


def test_choices():
    states, last = [torch.full((1, 2, 1), float(n)) for n in (1, 2, 3)], torch.full((1, 2, 1), 9.0)
    for layer in (0, -1, "mean:0", "mean:", "first", 1.5):
        with pytest.raises(
            UserError, match=f"layer {layer}: expected last, a layer's number from 1, or mean:K"
        ):
            layer_choice(layer)
    for layer, expected in ((1, 1.0), (3, 3.0), ("2", 2.0), ("mean:1", 3.0), ("mean:2", 2.5), ("last", 9.0)):
        assert choose_layer(states, last, layer).unique().tolist() == [expected], layer


@pytest.mark.parametrize("kind", ["hubert", "whisper"])
@torch.no_grad()
def test_layers_of_transformers(kind, huggingface, utterances):
    """The embedding is what the layer of that number puts out, in the order of the network.

    Whisper's last one has the network's final normalisation in it, as transformers returns it.
    """
    folder = str(huggingface(kind))
    for number in (1, 2) if kind == "whisper" else (1, 2, 3):
        teacher = load_teacher(folder, number)
        modules = teacher.module.layers if kind == "whisper" else teacher.module.encoder.layers
        with LayerTap([modules[number - 1]]) as states:
            found = teacher.embed(utterances[:1])[0]
        assert torch.equal(states[0][0, : len(found)], found)


@torch.no_grad()
def test_layers_of_recognisers(recogniser, utterances):
    folder = recogniser(blocks=3)
    for number in (1, 3):
        teacher = load_teacher(str(folder), number)
        with LayerTap([list(teacher.module.encoder.encoders)[number - 1]]) as states:
            found = teacher.embed(utterances[:1])[0]
        assert torch.equal(states[0][0, : len(found)], found)
