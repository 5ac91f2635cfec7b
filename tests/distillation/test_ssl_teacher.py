"""Models of ESPnet's own `ssl` task as teachers."""

import argparse

import numpy as np
import pytest
import torch
import yaml

from espnet_ext.distillation.recognisers import sample_rate_of
from espnet_ext.distillation.teachers import load_teacher
from espnet_ext.errors import UserError
from tests.distillation.test_teachers import assert_alone_equals_batch

_CNN = {"norm_mode": "layer_norm", "conv_mode": "standard", "bias": True}


def ssl_config(**changes) -> dict:
    encoder = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
    return {
        "token_list": [str(i) for i in range(5)] + ["<unk>"],
        "num_classes": 5,
        "input_size": None,
        "init": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 320, "n_mels": 20},
        "specaug": None,
        "specaug_conf": {},
        "normalize": None,
        "normalize_conf": {},
        "preencoder": None,
        "preencoder_conf": {},
        "encoder": "transformer",
        "encoder_conf": {"input_layer": "linear", **encoder},
        "loss": [{"name": "hubert", "conf": {"num_classes": 5, "final_dim": 8}}],
        "util": [{"name": "mask", "conf": {}}],
        "model": "espnet",
        "model_conf": {},
        **changes,
    }


@pytest.fixture
def ssl_model(tmp_path):
    """Function: options → the `.pth` of a model with random weights."""
    from espnet2.tasks.ssl import SSLTask

    def make(**changes):
        (tmp_path / "ssl").mkdir()
        config = ssl_config(**changes)
        torch.manual_seed(0)
        model = SSLTask.build_model(argparse.Namespace(**config))
        torch.save(model.state_dict(), tmp_path / "ssl" / "x.pth")
        (tmp_path / "ssl" / "config.yaml").write_text(yaml.safe_dump(config))
        return tmp_path / "ssl" / "x.pth"

    return make


def test_alone_as_in_a_batch(ssl_model, utterances):
    teacher = load_teacher(str(ssl_model()))
    assert (teacher.shift, teacher.size) == (320, 16)
    assert not teacher.module.training and not any(p.requires_grad for p in teacher.module.parameters())
    assert_alone_equals_batch(teacher, [*utterances, utterances[2][::-1].copy()])


def test_identity_tells_weights_apart(ssl_model):
    """Embeddings of other weights are others, whatever the file is called."""
    path = ssl_model()
    before = load_teacher(str(path)).identity
    assert load_teacher(str(path)).identity == before
    state = torch.load(path, weights_only=True)
    next(value for value in state.values() if value.is_floating_point()).mul_(1.01)
    torch.save(state, path)
    assert load_teacher(str(path)).identity != before


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({}, 256),  # the STFT reflects half a window
        ({"encoder_conf": ssl_config()["encoder_conf"] | {"input_layer": "conv2d"}}, 1500),
        ({"frontend": "wav2vec_cnn", "frontend_conf": _CNN}, 390),
    ],
    ids=["window", "subsampling", "convolutions"],
)
def test_too_short(ssl_model, utterances, changes, samples):
    """As other teachers say it, whichever part of the network minds; and nothing else is called so."""
    path = ssl_model(**changes)
    teacher = load_teacher(str(path))
    message = (
        f"teacher {path}: an utterance of {samples} samples is too short for it; raise --min_wav_duration"
    )
    with pytest.raises(UserError, match=message):
        teacher.embed([utterances[0], utterances[0][:samples]])
    with pytest.raises(UserError, match=message):
        teacher.frames(samples)
    assert len(teacher.embed([utterances[0][:4000]])[0]) > 0
    teacher.module.encoder.forward = _broken
    with pytest.raises(RuntimeError, match="something else"):
        teacher.embed([np.zeros(16000, dtype=np.float32)])


def test_no_frame_is_too_short_too(ssl_model):
    """A front end that gives nothing, and minds nothing."""
    teacher = load_teacher(str(ssl_model()))
    nothing = torch.zeros(1, 0, 16)
    teacher.module.inference_encode = lambda *_: (nothing, [nothing] * 2, None)
    with pytest.raises(UserError, match="an utterance of 400 samples is too short for it"):
        teacher.embed([np.zeros(400, dtype=np.float32)])


def _broken(*_, **__):
    raise RuntimeError("something else")


def test_other_tensors_are_refused(ssl_model):
    """A checkpoint that is not of its configuration: the tensors are named."""
    path = ssl_model()
    state = torch.load(path, weights_only=True)
    del state["encoder.after_norm.weight"]
    torch.save(state | {"decoder.weight": torch.ones(1)}, path)
    with pytest.raises(
        UserError, match=r"x.pth: .* 1 missing .encoder.after_norm.weight.; 1 not in the model"
    ):
        load_teacher(str(path))


def test_sample_rates():
    """ESPnet writes `16k` as well as 16000; a model of stored features hears no audio."""
    for rate, expected in ((16000, 16000), ("16k", 16000), ("22.05k", 22050), ("8000", 8000)):
        assert sample_rate_of({"frontend_conf": {"fs": rate}}, "x") == expected
    assert sample_rate_of({}, "x") == 16000
    with pytest.raises(UserError, match="x/config.yaml: this model reads stored filterbanks"):
        sample_rate_of({"input_size": 80}, "x/config.yaml")
