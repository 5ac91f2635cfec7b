"""Tiny recognisers with random weights: searches must agree on any weights, so none is trained."""

import argparse
from pathlib import Path

import pytest
import torch

TOKENS = ["<blank>", "<unk>", *"abcdefghijklmnop", "<sos/eos>"]


def build_model(seed: int = 0, **model_conf):
    """An ESPnetASRModel: E-Branchformer of 2 blocks and 32 dimensions, transformer decoder of 2 blocks."""
    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(seed)
    args = ASRTask.get_default_config()
    args.update(
        token_list=TOKENS,
        token_type="char",
        encoder="e_branchformer",
        encoder_conf={
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
        decoder="transformer",
        decoder_conf={"attention_heads": 2, "linear_units": 64, "num_blocks": 2},
        model_conf={"ctc_weight": 0.3, **model_conf},
        frontend_conf={"n_fft": 256, "hop_length": 160, "n_mels": 20},
        specaug=None,
        normalize="utterance_mvn",
        init="xavier_uniform",
    )
    return ASRTask.build_model(argparse.Namespace(**args)).eval()


def sharpen(model, factor: float = 6.0):
    """Larger output layers: random weights give flat distributions, in which nothing ever ends or repeats."""
    with torch.no_grad():
        model.ctc.ctc_lo.weight.mul_(factor)
        model.decoder.output_layer.weight.mul_(factor)
    return model


@pytest.fixture(scope="session")
def model():
    return sharpen(build_model())


def random_memory(seed: int, lens: list[int], dim: int = 32):
    """Encoder outputs (B, T, D) with noise behind the ends, which no search may look at, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lens), max(lens), dim, generator=generator), torch.tensor(lens)


@pytest.fixture
def here() -> Path:
    return Path(__file__).parent
