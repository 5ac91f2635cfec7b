"""Tiny recognisers with random weights: searches must agree on any weights, so none is trained."""

import argparse
from pathlib import Path

import numpy
import pytest
import soundfile
import torch
import yaml

TOKENS = ["<blank>", "<unk>", *"abcdefghijklmnop", "<sos/eos>"]
RATE = 16000


def model_config(token_list: list[str], **more) -> dict:
    """Configuration of an E-Branchformer of 2 blocks and 32 dimensions with a decoder of 2 blocks."""
    return {
        "token_list": token_list,
        "token_type": "char",
        "encoder": "e_branchformer",
        "encoder_conf": {
            "output_size": 32,
            "attention_heads": 2,
            "num_blocks": 2,
            "cgmlp_linear_units": 64,
            "linear_units": 64,
            "cgmlp_conv_kernel": 7,
            "attention_layer_type": "rel_selfattn",
            "pos_enc_layer_type": "rel_pos",
            "rel_pos_type": "latest",
        },
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 64, "num_blocks": 2},
        "model_conf": {"ctc_weight": 0.3},
        "frontend_conf": {"n_fft": 256, "hop_length": 160, "n_mels": 20},
        "specaug": None,
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "init": "xavier_uniform",
        **more,
    }


def build_model(config: dict, seed: int = 0):
    """An ESPnetASRModel in eval mode, and the complete configuration that it is built from."""
    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(seed)
    complete = {**ASRTask.get_default_config(), **config}
    return ASRTask.build_model(argparse.Namespace(**complete)).eval(), complete


def sharpen(model, factor: float = 6.0):
    """Larger output layers: random weights give flat distributions, in which nothing ever ends or repeats."""
    with torch.no_grad():
        model.ctc.ctc_lo.weight.mul_(factor)
        model.decoder.output_layer.weight.mul_(factor)
        model.decoder.output_layer.bias[0] = -100.0  # no trained decoder emits blanks
    return model


@pytest.fixture(scope="session")
def model():
    return sharpen(build_model(model_config(TOKENS))[0])


@pytest.fixture(scope="session")
def random_memory():
    """A function that makes encoder outputs and their lengths."""

    def make(seed: int, lens: list[int], dim: int = 32):
        """Outputs (B, T, D) with noise behind the ends, which no search may see, and lengths (B,)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(lens), max(lens), dim, generator=generator), torch.tensor(lens)

    return make


def write_export(folder: Path, config: dict) -> Path:
    """What stage 9 leaves: a plain ESPnet model."""
    from espnet_ext.train.export import INFERENCE_KEYS

    model, complete = build_model(config)
    torch.save(sharpen(model).state_dict(), folder / "model.pth")
    kept = {name: complete[name] for name in INFERENCE_KEYS if name in complete}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept | {"specaug": None}), encoding="utf-8")
    return folder


@pytest.fixture
def make_export(tmp_path):
    """A function that writes an exported model of other options."""

    def make(token_list=TOKENS, **options) -> Path:
        folder = tmp_path / "export"
        folder.mkdir()
        return write_export(folder, model_config(token_list, **options))

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """An exported model that writes characters."""
    return write_export(tmp_path_factory.mktemp("export"), model_config(TOKENS))


@pytest.fixture(scope="session")
def dumped(tmp_path_factory) -> Path:
    """A dumped set of seven utterances with troublesome ids, one of them too short to hear anything in."""
    folder = tmp_path_factory.mktemp("dump dir")
    ids = sorted(["plain", "a/b", "it's", "$(touch${IFS}x);", 'quo"te', "ü", "short"])
    generator = numpy.random.default_rng(0)
    lengths = {name: 200 if name == "short" else 4000 + 1500 * index for index, name in enumerate(ids)}
    for index, name in enumerate(ids):
        samples = generator.normal(0, 0.1, lengths[name]).astype("float32")
        soundfile.write(folder / f"{index}.flac", samples, RATE)
    scp = [f"{name} {folder / str(index)}.flac\n" for index, name in enumerate(ids)]
    (folder / "wav.scp").write_text("".join(scp), encoding="utf-8")
    (folder / "utt2num_samples").write_text(
        "".join(f"{name} {lengths[name]}\n" for name in ids), encoding="utf-8"
    )
    return folder
