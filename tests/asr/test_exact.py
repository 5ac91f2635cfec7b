"""Padding changes nothing: an utterance alone equals the same utterance in any batch."""

import pytest
import torch

from espnet_ext.asr.model import adopt
from espnet_ext.errors import UserError


def alone(batch: dict, row: int) -> dict:
    """The utterance of one row without any padding."""
    samples, labels = int(batch["speech_lengths"][row]), int(batch["text_lengths"][row])
    return {
        "speech": batch["speech"][row : row + 1, :samples],
        "speech_lengths": batch["speech_lengths"][row : row + 1],
        "text": batch["text"][row : row + 1, :labels],
        "text_lengths": batch["text_lengths"][row : row + 1],
    }


@pytest.mark.parametrize("encoder", ["e_branchformer", "transformer"])
@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d2", "conv2d6", "conv2d8"])
@torch.no_grad()
def test_alone_equals_in_batch(build_asr, batch, encoder, input_layer):
    model = adopt(build_asr(encoder, input_layer)).eval()
    batch["speech"][1, int(batch["speech_lengths"][1]) :] = 7.0  # padding may hold anything
    together = model.outputs(**batch)
    ctc_sum = att_sum = 0.0
    for row in range(4):
        single = model.outputs(**alone(batch, row))
        frames, labels = int(single.encoder_out_lens[0]), int(batch["text_lengths"][row]) + 1
        assert int(together.encoder_out_lens[row]) == frames == single.encoder_out.size(1)
        for ours, theirs in (
            (together.encoder_out[row, :frames], single.encoder_out[0]),
            (together.decoder_out[row, :labels], single.decoder_out[0]),
        ):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        ctc_sum, att_sum = ctc_sum + single.ctc_sum, att_sum + single.att_sum
    torch.testing.assert_close(together.ctc_sum, ctc_sum, rtol=1e-5, atol=0)
    torch.testing.assert_close(together.att_sum, att_sum, rtol=1e-5, atol=0)


@torch.no_grad()
def test_upstream_is_not_exact(build_asr, batch):
    """The test above can fail: with ESPnet's own computation it does."""
    model = adopt(build_asr(), padding="espnet").eval()
    together, single = model.outputs(**batch), model.outputs(**alone(batch, 3))
    frames = single.encoder_out.size(1)
    assert (together.encoder_out[3, :frames] - single.encoder_out[0]).abs().max() > 1e-3


@pytest.mark.parametrize("encoder", ["e_branchformer", "transformer"])
@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d2", "conv2d6", "conv2d8"])
@torch.no_grad()
def test_alone_equals_stock_espnet(build_asr, batch, encoder, input_layer):
    """For an utterance without padding the exact model computes what ESPnet computes."""
    single = alone(batch, 1)
    expected, lengths = (
        build_asr(encoder, input_layer).eval().encode(single["speech"].clone(), single["speech_lengths"])
    )
    output = adopt(build_asr(encoder, input_layer)).eval().outputs(**single)
    assert output.encoder_out_lens.tolist() == lengths.tolist()
    assert (output.encoder_out - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("ctc_weight", [0.3, 1.0, 0.0])
def test_loss_and_gradient_equal_stock_espnet(build_asr, batch, ctc_weight):
    """With `padding: espnet` loss and gradients are ESPnet's on a padded batch."""
    stock = build_asr(ctc_weight=ctc_weight).eval()
    loss, _, _ = stock(**{name: tensor.clone() for name, tensor in batch.items()})
    loss.sum().backward()
    ours = adopt(build_asr(ctc_weight=ctc_weight), padding="espnet").eval()
    output = ours.outputs(**batch)
    mine = ours.joint_loss(output, utterances=4)
    mine.backward()
    torch.testing.assert_close(mine, loss.sum(), rtol=1e-6, atol=0)
    gradients = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_names_are_espnets(build_asr):
    assert list(adopt(build_asr()).state_dict()) == list(build_asr().state_dict())


def test_unknown_encoder_is_refused(build_asr):
    model = build_asr()
    model.encoder = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="Linear: no padding-exact variant.*--padding espnet"):
        adopt(model)


def test_too_short_for_the_window(build_asr, batch):
    model = adopt(build_asr()).eval()
    with pytest.raises(UserError, match="100 samples is too short for a window of 512"):
        model.encode(batch["speech"][:1, :100], torch.tensor([100]))


@pytest.mark.parametrize("padding", ["exact", "espnet"])
def test_too_short_for_subsampling(build_asr, batch, padding):
    model = adopt(build_asr(), padding).eval()
    with pytest.raises(UserError, match="short for subsampling, which needs 7; raise --min_wav"):
        model.encode_keyed(batch["speech"][:1, :700], torch.tensor([700]), None)
