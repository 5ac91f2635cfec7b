"""Scheduled sampling: p = 0 is teacher forcing to the bit, p = 1 replaces all but <sos>, draws have keys."""

import pytest
import torch

from espnet_ext.asr import scheduled_sampling
from espnet_ext.asr.scheduled_sampling import (
    chosen_tokens,
    draw_uniform,
    first_pass,
    mixed_history,
    own_history,
    reading,
)

KEYS = [11, 12, 13, 14]
SOS, BLANK, STRANGE = 12, 0, 1  # no transcript of the batch holds token 1


def outputs(model, batch, history=None, keys=KEYS):
    """Forward pass with the same dropout every time; also what the decoder read."""
    read = []
    model.train()
    torch.manual_seed(3)
    spy = model.decoder.embed.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    try:
        if history is None:
            return model.outputs(**batch, keys=keys), read
        with reading(model.decoder, history):
            return model.outputs(**batch, keys=keys), read
    finally:
        spy.remove()


def gradients(model, output) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.joint_loss(output, 4).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_probability_zero_is_teacher_forcing_to_the_bit(build_asr, batch):  # M11
    model = build_asr()
    plain, read_plainly = outputs(model, batch)
    expected = gradients(model, plain)
    mixture, read = outputs(model, batch, own_history(model.decoder, KEYS, 0.0, [SOS, BLANK]))
    assert len(read_plainly) == 1 and len(read) == 2  # there was a first pass
    assert torch.equal(read[1], read_plainly[0])
    assert torch.equal(mixture.decoder_out, plain.decoder_out)
    found = gradients(model, mixture)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.decoder.training and all(module.training for module in model.decoder.modules())


def test_probability_one_replaces_all_but_sos(build_asr, batch, monkeypatch):  # M11
    model = build_asr()
    seen = {}

    def stub(decoder, memory, memory_lens, inputs, input_lens):
        seen["gradient"], seen["inputs"] = torch.is_grad_enabled(), inputs
        scores = torch.zeros(*inputs.shape, 13)
        scores[..., STRANGE] = 100.0
        return scores

    monkeypatch.setattr(scheduled_sampling, "first_pass", stub)
    output, read = outputs(model, batch, own_history(model.decoder, KEYS, 1.0, [SOS, BLANK]))
    history, lengths = read[0], batch["text_lengths"] + 1
    for row, length in enumerate(lengths.tolist()):
        assert history[row, 0] == SOS
        assert (history[row, 1:length] == STRANGE).all()
        assert torch.equal(history[row, length:], seen["inputs"][row, length:])  # padding stays as it was
    plain, _ = outputs(model, batch)
    assert torch.equal(output.targets, plain.targets)  # what is to be written remains the transcript
    assert not torch.equal(output.decoder_out[:, 1], plain.decoder_out[:, 1])


def test_first_pass_is_the_decoder_in_evaluation_mode_without_gradient(build_asr, batch):
    model = build_asr()
    memory = torch.randn(4, 20, 16, requires_grad=True)
    arguments = (memory, torch.tensor([20, 15, 9, 4]), torch.full((4, 10), SOS), batch["text_lengths"] + 1)
    model.train()
    model.decoder.embed.eval()  # someone's choice, to be left alone
    before = torch.get_rng_state()
    scores = first_pass(model.decoder, *arguments)
    assert torch.equal(torch.get_rng_state(), before)  # it drew nothing
    assert not scores.requires_grad and scores.grad_fn is None
    assert model.decoder.training and not model.decoder.embed.training
    model.decoder.eval()
    assert torch.equal(scores, model.decoder(*arguments)[0].detach())


def test_replacements_follow_the_probability_and_the_mask():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.full((200, 51), 5)
    inputs[:, 0] = SOS
    tokens = torch.full((200, 51), 7)
    uniform = torch.rand(200, 51, generator=draw)
    history = mixed_history(inputs, torch.full((200,), 51), tokens, uniform, 0.3)
    replaced = (history == 7)[:, 1:].double()
    assert (history[:, 0] == SOS).all()
    assert abs(replaced.mean().item() - 0.3) < 4 * (0.3 * 0.7 / 10000) ** 0.5
    assert torch.equal(replaced.bool(), uniform[:, 1:] < 0.3)
    none = mixed_history(inputs, torch.full((200,), 51), tokens, torch.zeros(200, 51), 0.0)
    assert torch.equal(none, inputs)  # not even by a draw of 0


def test_token_n_replaces_the_label_it_competes_with():
    inputs, tokens = torch.tensor([[SOS, 2, 3, 4]]), torch.tensor([[5, 6, 7, 8]])
    uniform = torch.tensor([[0.0, 0.9, 0.1, 0.9]])
    # The second label is what follows position 1, for which the first pass wrote token 6.
    assert mixed_history(inputs, torch.tensor([4]), tokens, uniform, 0.5).tolist() == [[SOS, 2, 6, 4]]


def test_samples_have_the_posterior_s_frequencies():
    scores = torch.tensor([3.0, 1.0, 0.0, -1.0, 2.0]).expand(1, 20000, 5)
    uniform = torch.rand(1, 20000, generator=torch.Generator().manual_seed(1))
    tokens = chosen_tokens(scores, uniform, never=[0, 4])
    allowed = torch.softmax(torch.tensor([1.0, 0.0, -1.0]), 0)
    frequency = torch.bincount(tokens[0], minlength=5) / 20000
    assert frequency[0] == 0 and frequency[4] == 0
    assert (frequency[1:4] - allowed).abs().max() < 0.015
    assert (chosen_tokens(scores, uniform, never=[0, 4], draw="argmax") == 1).all()
    with pytest.raises(ValueError, match="expected one of sample, argmax"):
        chosen_tokens(scores, uniform, [], draw="beam")


def test_forbidden_tokens_are_never_drawn_at_the_ends_of_the_distribution():
    scores = torch.randn(1, 500, 300, generator=torch.Generator().manual_seed(2)) * 8
    for level in (0.0, 1.0 - 2**-24):  # the least and the largest float32 that a draw can give
        tokens = chosen_tokens(scores, torch.full((1, 500), level), never=[0, 299])
        assert tokens.min() > 0 and tokens.max() < 299


def test_draws_depend_on_utterance_and_position_alone():
    whole = draw_uniform([5, 6, 7], 12)
    assert whole.shape == (3, 12, 2) and whole.min() >= 0 and whole.max() < 1
    assert torch.equal(draw_uniform([7], 5)[0], whole[2, :5])
    assert not torch.equal(whole[0], whole[1])


def test_what_replaces_a_label_does_not_depend_on_its_being_replaced(monkeypatch):
    monkeypatch.setattr(scheduled_sampling, "first_pass", lambda *_: torch.zeros(200, 41, 13))
    inputs = torch.full((200, 41), SOS)
    history = own_history(None, range(200), 0.5, [SOS])(None, None, inputs, torch.full((200,), 41))[:, 1:]
    replaced = history != SOS
    assert abs(replaced.double().mean().item() - 0.5) < 4 * (0.25 / 8000) ** 0.5
    # The token after a label is drawn where the label is: here those after one that was replaced.
    after = torch.bincount(history[:, 1:][replaced[:, :-1] & replaced[:, 1:]], minlength=12)
    assert 1750 < after.sum() < 2150 and 110 < after.min() and after.max() < 215  # 162 each, give or take 12


def test_history_of_an_utterance_does_not_depend_on_its_batch(build_asr, batch):
    model = build_asr(dropout=0.0)
    kept = []
    history = own_history(model.decoder, KEYS, 0.5, [SOS, BLANK], keep=kept.append)
    together, read = outputs(model, batch, history)
    assert torch.equal(kept[0], read[1]) and len(kept) == 1
    for row in range(4):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        alone["speech"] = alone["speech"][:, : int(alone["speech_lengths"])]
        alone["text"] = alone["text"][:, : int(alone["text_lengths"])]
        own = own_history(model.decoder, KEYS[row : row + 1], 0.5, [SOS, BLANK])
        output, seen = outputs(model, alone, own, KEYS[row : row + 1])
        length = int(alone["text_lengths"]) + 1
        assert torch.equal(seen[1][0], read[1][row, :length])
        torch.testing.assert_close(
            output.decoder_out[0], together.decoder_out[row, :length], atol=1e-5, rtol=1e-5
        )


def test_second_pass_has_its_gradient_under_autocast(build_asr, batch):
    model = build_asr(dropout=0.0)
    found = []
    for history in (None, own_history(model.decoder, KEYS, 0.0, [SOS, BLANK])):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = outputs(model, batch, history)
        found.append(gradients(model, output))
    plain, mixture = found
    assert plain.keys() == mixture.keys() and "decoder.output_layer.weight" in plain
    assert all(torch.equal(mixture[name], plain[name]) for name in plain)
    assert torch.is_autocast_cache_enabled()


def test_hook_is_gone_afterwards(build_asr, batch):
    model = build_asr()
    with (
        pytest.raises(RuntimeError, match="stop"),
        reading(model.decoder, lambda *_: (_ for _ in ()).throw(RuntimeError("stop"))),
    ):
        model.outputs(**batch, keys=KEYS)
    assert not model.decoder._forward_pre_hooks
