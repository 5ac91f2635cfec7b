"""ESPnet's stand-alone transducer: an utterance alone equals the same utterance in any batch."""

import argparse

import pytest
import torch

from espnet_ext.asr.transducer import adopt, torchaudio_loss
from espnet_ext.errors import UserError

TOKENS = ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"]

BLOCKS = {
    "ebranchformer": {"block_type": "ebranchformer", "hidden_size": 16, "linear_size": 32, "heads": 2}
    | {"conv_mod_kernel_size": 7},
    "branchformer": {"block_type": "branchformer", "hidden_size": 16, "linear_size": 32, "heads": 2}
    | {"conv_mod_kernel_size": 7},
    "conformer": {"block_type": "conformer", "hidden_size": 16, "linear_size": 32, "heads": 2}
    | {"conv_mod_kernel_size": 7},
    "conv1d": {"block_type": "conv1d", "output_size": 16, "kernel_size": 3},
}


def config(block="ebranchformer", decoder="rnn", main=None, vgg=False, factor=4, change=None, **model_conf):
    """Options of ESPnet's ASRTransducerTask.build_model for a transducer of a few thousand parameters."""
    body = [dict(BLOCKS[block], num_blocks=2)]
    if block == "conv1d":
        body = [
            dict(BLOCKS["ebranchformer"]),
            BLOCKS["conv1d"] | (change or {}),
            dict(BLOCKS["ebranchformer"]),
        ]
    predictor = {"embed_size": 16} | ({"hidden_size": 16} if decoder == "rnn" else {})
    return {
        "token_list": list(TOKENS),
        "init": None,
        "input_size": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 40},
        "specaug": None,
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "encoder_conf": {
            "main_conf": main or {},
            "input_conf": {"vgg_like": vgg, "conv_size": (8, 8) if vgg else 8, "subsampling_factor": factor},
            "body_conf": body,
        },
        "decoder": decoder,
        "decoder_conf": predictor,
        "joint_network_conf": {"joint_space_size": 16},
        "model_conf": model_conf,
    }


def stock(**options):
    """ESPnet's own model with random weights."""
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    torch.manual_seed(1)
    model = ASRTransducerTask.build_model(argparse.Namespace(**config(**options)))
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # zeros would hide what a norm does with padding
    return model


def alone(batch: dict, row: int) -> dict:
    """The utterance of one row without any padding."""
    samples, labels = int(batch["speech_lengths"][row]), int(batch["text_lengths"][row])
    return {
        "speech": batch["speech"][row : row + 1, :samples],
        "speech_lengths": batch["speech_lengths"][row : row + 1],
        "text": batch["text"][row : row + 1, :labels],
        "text_lengths": batch["text_lengths"][row : row + 1],
    }


KINDS = [
    {},
    {"block": "branchformer", "decoder": "stateless"},
    {"block": "conformer"},
    {"block": "conv1d", "main": {"dynamic_chunk_training": True}},
    {"vgg": True},
    {"vgg": True, "factor": 6},
    {"factor": 2},
    {"factor": 6},
    {"main": {"dynamic_chunk_training": True, "short_chunk_size": 4}},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_alone_equals_in_batch(batch, options):
    """Encoder lengths and outputs, auxiliary losses and the loss of each utterance."""
    model = adopt(stock(auxiliary_ctc_weight=0.3, auxiliary_lm_loss_weight=0.1, **options)).eval()
    batch["speech"][1, int(batch["speech_lengths"][1]) :] = 7.0  # padding may hold anything
    together = model.outputs(**batch)
    losses = model.losses(together)
    ctc_sum = lm_sum = 0.0
    for row in range(4):
        single = model.outputs(**alone(batch, row))
        frames, labels = int(single.encoder_out_lens[0]), int(batch["text_lengths"][row]) + 1
        assert int(together.encoder_out_lens[row]) == frames == single.encoder_out.size(1)
        for ours, theirs in (
            (together.encoder_out[row, :frames], single.encoder_out[0]),
            (together.predictor_out[row, :labels], single.predictor_out[0]),
            (losses[row], model.losses(single)[0]),
        ):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        ctc_sum, lm_sum = ctc_sum + single.ctc_sum, lm_sum + single.lm_sum
    torch.testing.assert_close(together.ctc_sum, ctc_sum, rtol=1e-5, atol=0)
    torch.testing.assert_close(together.lm_sum, lm_sum, rtol=1e-5, atol=0)


@torch.no_grad()
def test_upstream_is_not_exact(batch):
    """The test above can fail: ESPnet gives every shorter utterance the length of the longest."""
    model = adopt(stock(), padding="espnet").eval()
    together, single = model.outputs(**batch), model.outputs(**alone(batch, 3))
    assert int(together.encoder_out_lens[3]) > int(single.encoder_out_lens[0])


@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_alone_equals_stock_espnet(batch, options):
    """For an utterance without padding the exact model computes what ESPnet's inference computes."""
    single = alone(batch, 1)
    theirs = stock(**options).eval()
    theirs.encoder.dynamic_chunk_training = False  # as ESPnet's inference does
    expected, lengths = theirs.encode(single["speech"].clone(), single["speech_lengths"])
    output = adopt(stock(**options)).eval().outputs(**single)
    assert output.encoder_out_lens.tolist() == lengths.tolist()
    assert (output.encoder_out - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_conformers_batch_norm_sees_no_padding(batch):
    """In training mode the statistics are those of the frames that are there, whatever padding follows."""
    results = []
    for extra in (0, 3200):
        model = adopt(stock(block="conformer")).train()
        padded = batch | {"speech": torch.nn.functional.pad(batch["speech"], (0, extra), value=3.0)}
        output = model.outputs(**padded)
        statistics = [b for n, b in model.named_buffers() if "running" in n]
        results.append((model.losses(output), *statistics))
    assert len(results[0]) == 1 + 2 * 2  # running mean and variance of two blocks
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_batch_norm_counts_no_padding():
    """Of the convolution module itself: more padding behind the same frames changes no statistic."""
    found = []
    for extra in (0, 6):
        module = adopt(stock(block="conformer")).train().encoder.encoders.blocks[0].conv_mod
        x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
        mask = torch.arange(9 + extra)[None] >= torch.tensor([9, 5])[:, None]
        out, _ = module(torch.nn.functional.pad(x, (0, 0, 0, extra)), mask)
        found.append((out[0, :9], out[1, :5], module.norm.running_mean, module.norm.running_var))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_loss_and_gradient_equal_the_full_lattice(batch):
    """Group by group, the loss and every gradient are those of ESPnet's own code over the whole lattice."""
    theirs = stock(auxiliary_ctc_weight=0.3, auxiliary_lm_loss_weight=0.1).eval()
    ours = adopt(stock(auxiliary_ctc_weight=0.3, auxiliary_lm_loss_weight=0.1), padding="espnet").eval()
    theirs.criterion_transducer = torchaudio_loss
    loss, _, _ = theirs(**{name: tensor.clone() for name, tensor in batch.items()})
    loss.sum().backward()
    output = ours.outputs(**batch)
    mine = ours.lattice_loss(output, lambda nodes: nodes.losses().sum() / 4) + ours.auxiliary_loss(output, 4)
    mine.backward()
    torch.testing.assert_close(mine, loss.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours(**batch)[0].sum(), mine, rtol=1e-6, atol=0)  # ESPnet's forward still runs
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_dropout_of_ctc_is_for_training(batch):
    """ESPnet leaves it on in evaluation, so that no two validations agree."""
    model = adopt(stock(auxiliary_ctc_weight=0.3, auxiliary_ctc_dropout_rate=0.5))
    for training in (False, True):
        sums = [model.train(training).outputs(**batch).ctc_sum for _ in range(2)]
        assert torch.equal(*sums) != training


def test_names_are_espnets():
    assert list(adopt(stock()).state_dict()) == list(stock().state_dict())


def test_too_short(batch):
    model = adopt(stock()).eval()
    with pytest.raises(UserError, match="5 frames is too short for subsampling by 4"):
        model.encode_keyed(batch["speech"][:1, :700], torch.tensor([700]), None)
    with pytest.raises(UserError, match="5 frames is too short for subsampling by 4"):
        model.encode_keyed(batch["speech"][:2], torch.tensor([16000, 700]), None)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fastemit_lambda": 0.1}, "fastemit_lambda: torchaudio's loss has no FastEmit"),
        ({"block": "conv1d"}, "block 2 .Conv1d.*with dynamic_chunk_training"),
        (
            {"block": "conv1d", "change": {"batch_norm": True}, "main": {"dynamic_chunk_training": True}},
            "block 2 .Conv1d.*without batch_norm",
        ),
        (
            {"block": "conv1d", "change": {"dilation": 2}, "main": {"dynamic_chunk_training": True}},
            "block 2 .Conv1d.*and dilation",
        ),
    ],
)
def test_refused(options, message):
    with pytest.raises(UserError, match=message):
        adopt(stock(**options))


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("decoder", torch.nn.Identity(), "decoder Identity: not known to be padding-exact; use rnn or"),
        ("frontend", torch.nn.Identity(), "frontend Identity: no padding-exact variant; use default"),
        ("use_k2_pruned_loss", True, "use_k2_pruned_loss: k2 is not used here"),
    ],
)
def test_unknown_parts_are_refused(name, part, message):
    """Whatever has no exact variant; ESPnet's own computation takes its parts as they are."""
    model = stock()
    setattr(model, name, part)
    with pytest.raises(UserError, match=message):
        adopt(model)
    if name != "use_k2_pruned_loss":
        adopt(model, padding="espnet")
    with pytest.raises(UserError, match="--padding none: expected exact or espnet"):
        adopt(stock(), padding="none")


@pytest.mark.parametrize("streaming", [False, True])
def test_stock_espnet_decodes_the_parameters(tmp_path, batch, streaming):
    """What this class trains is ESPnet's plain model, and ESPnet's own script recognises with it."""
    import yaml
    from espnet2.bin.asr_transducer_inference import Speech2Text

    model = adopt(stock(main={"dynamic_chunk_training": streaming}))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    single = alone(batch, 3)
    for _ in range(60):  # until it knows one utterance by heart
        optimizer.zero_grad()
        model.lattice_loss(model.outputs(**single), lambda nodes: nodes.losses().sum()).backward()
        optimizer.step()
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            config(main={"dynamic_chunk_training": streaming}) | {"token_type": "char", "bpemodel": None}
        )
    )
    torch.save(model.state_dict(), tmp_path / "model.pth")
    recogniser = Speech2Text(str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"), beam_size=2)
    best = recogniser.hypotheses_to_results(recogniser(single["speech"][0]))[0]
    assert best[2] == single["text"][0].tolist()
