"""A small joint recogniser of every supported kind, built by ESPnet's own code."""

import argparse

import pytest
import torch

TOKENS = ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"]


def small_config(encoder: str = "e_branchformer", input_layer: str = "conv2d", **model_conf) -> dict:
    """Options of ESPnet's ASRTask.build_model for a recogniser of a few thousand parameters."""
    encoder_conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "input_layer": input_layer}
    if encoder == "e_branchformer":
        encoder_conf |= {
            "cgmlp_linear_units": 32,
            "cgmlp_conv_kernel": 7,
            "use_ffn": True,
            "macaron_ffn": True,
        }
    encoder_conf |= {"linear_units": 32, "dropout_rate": 0.1}
    return {
        "token_list": list(TOKENS),
        "init": "xavier_uniform",
        "input_size": None,
        "ctc_conf": {},
        "joint_net_conf": {},
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 40},
        "specaug": None,
        "specaug_conf": {},
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "preencoder": None,
        "preencoder_conf": {},
        "encoder": encoder,
        "encoder_conf": encoder_conf,
        "postencoder": None,
        "postencoder_conf": {},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.1},
        "model": "espnet",
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False, **model_conf},
    }


@pytest.fixture
def build_asr():
    """Function: options → stock ESPnet model with random weights large enough to be sensitive."""

    def build_model(encoder: str = "e_branchformer", input_layer: str = "conv2d", **model_conf):
        from espnet2.tasks.asr import ASRTask

        torch.manual_seed(1)
        model = ASRTask.build_model(argparse.Namespace(**small_config(encoder, input_layer, **model_conf)))
        for name, parameter in model.named_parameters():
            # ESPnet starts the gate's convolution at 1e-6, where a leak would not show.
            if "csgu.conv.weight" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return build_model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four utterances of different lengths with labels."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([16000, 11111, 7003, 4801])
    speech = torch.randn(4, 16000, generator=generator)
    for row, length in enumerate(lengths):
        speech[row, length:] = 0.0
    text_lengths = torch.tensor([9, 6, 4, 2])
    text = torch.randint(2, 12, (4, 9), generator=generator)
    text = text.masked_fill(torch.arange(9)[None] >= text_lengths[:, None], -1)
    return {"speech": speech, "speech_lengths": lengths, "text": text, "text_lengths": text_lengths}
