"""Speech enters the stand-alone transducer at the scale at which it enters ESPnet's other encoders."""

import argparse

import pytest
import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder

from espnet_ext.asr.transducer_task import TransducerTask
from tests.asr.test_transducer import config


def built(task, size: int, vgg: bool):
    """A transducer of a task's own options, from one seed."""
    options = config(vgg=vgg) | {"padding": "exact", "specaug_conf": {}}
    options["encoder_conf"]["body_conf"][0]["hidden_size"] = size
    if not vgg:
        options["encoder_conf"]["input_conf"]["conv_size"] = size
    torch.manual_seed(1)
    return task.build_model(argparse.Namespace(**options))


@pytest.mark.parametrize("vgg", [False, True])
def test_only_the_input_projection_differs_from_espnets(vgg):
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    ours, theirs = built(TransducerTask, 16, vgg).state_dict(), built(ASRTransducerTask, 16, vgg).state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        scale = 4.0 if name.startswith("encoder.embed.output.") else 1.0
        torch.testing.assert_close(ours[name], scale * theirs[name], rtol=0, atol=0)


def test_speech_is_as_large_as_in_espnets_other_encoders():
    ours = built(TransducerTask, 64, False).encoder
    torch.manual_seed(2)
    other = EBranchformerEncoder(input_size=40, output_size=64, num_blocks=1, cgmlp_linear_units=32)
    features = torch.randn(4, 200, 40)
    seen, expected = ours.embed(features)[0], other.embed(features, None)[0][0]
    assert seen.std().item() == pytest.approx(expected.std().item(), rel=0.2)
