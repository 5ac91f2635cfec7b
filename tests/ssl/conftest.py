"""A small joint recogniser and a batch of noise."""

import argparse

import pytest
import torch


@pytest.fixture
def build_model():
    """Function: (encoder, input layer, encoder options) → padding-exact recogniser without dropout."""

    def build(encoder: str = "e_branchformer", input_layer: str = "conv2d", **encoder_conf):
        from espnet2.tasks.asr import ASRTask

        from espnet_ext.asr.model import adopt

        options = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "input_layer": input_layer}
        if encoder == "e_branchformer":
            options |= {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7, "use_ffn": True}
        no_dropout = {f"{kind}dropout_rate": 0.0 for kind in ("", "positional_", "attention_")}
        options |= {"linear_units": 32, **no_dropout, **encoder_conf}
        torch.manual_seed(1)
        model = ASRTask.build_model(
            argparse.Namespace(
                token_list=["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"],
                init="xavier_uniform",
                input_size=None,
                ctc_conf={},
                joint_net_conf={},
                frontend="default",
                frontend_conf={"n_fft": 512, "hop_length": 160, "n_mels": 20},
                specaug=None,
                specaug_conf={},
                normalize="utterance_mvn",
                normalize_conf={},
                preencoder=None,
                preencoder_conf={},
                encoder=encoder,
                encoder_conf=options,
                postencoder=None,
                postencoder_conf={},
                decoder="transformer",
                decoder_conf={"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
                model="espnet",
                model_conf={"ctc_weight": 0.3},
            )
        )
        for name, parameter in model.named_parameters():
            # ESPnet starts the gate's convolution at 1e-6, where a leak would not show.
            if "csgu.conv.weight" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return adopt(model)

    return build


@pytest.fixture
def speech():
    """Three utterances of different lengths, and their lengths."""
    draw = torch.Generator().manual_seed(2)
    lengths = torch.tensor([32000, 21111, 14003])
    samples = torch.randn(3, 32000, generator=draw)
    for row, length in enumerate(lengths):
        samples[row, length:] = 0.0
    return samples, lengths


@pytest.fixture
def alone():
    """Function: (speech of the batch, row) → the utterance without padding."""

    def single(speech, row: int):
        samples, lengths = speech
        return samples[row : row + 1, : int(lengths[row])], lengths[row : row + 1]

    return single
