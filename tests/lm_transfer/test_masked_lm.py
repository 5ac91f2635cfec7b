"""What the small masked language model is trained on: which tokens it guesses, and its loss."""

from types import SimpleNamespace

import numpy as np
import torch

from espnet_ext.lm.text_data import with_ends
from espnet_ext.lm_transfer.lm_training import MaskedLMMethod, mask_tokens
from espnet_ext.lm_transfer.masked_lm import MaskedLM
from espnet_ext.train.data import Batch
from espnet_ext.train.method import MicroBatch, Totals

V = 12
END = V - 1


def sentences(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    return with_ends([draw.integers(2, END, length).tolist() for length in lengths], END)


def test_of_every_sentence_a_part_is_guessed_and_never_its_ends():
    ids, lengths = sentences(1, 4, 20, 100, 0)
    hidden, chosen = mask_tokens(ids, lengths, list(range(5)), 0.15, V)
    assert chosen.sum(1).tolist() == [1, 1, 3, 15, 0]
    inside = (torch.arange(ids.size(1)) > 0) & (torch.arange(ids.size(1)) < lengths[:, None] - 1)
    assert not (chosen & ~inside).any()
    assert torch.equal(hidden[~chosen], ids[~chosen])


def test_what_stands_in_their_places():
    """80 % the mask, 10 % any token but those that no text has, 10 % what was there."""
    ids, lengths = sentences(*[400] * 20)
    hidden, chosen = mask_tokens(ids, lengths, list(range(20)), 0.5, V)
    now, before = hidden[chosen], ids[chosen]
    masked, same = (now == V).float().mean(), (now == before).float().mean()
    others = now[(now != V) & (now != before)]
    # A tenth of the tenth that is exchanged draws the token that was there.
    assert abs(masked - 0.8) < 0.03 and abs(same - 0.11) < 0.03
    assert set(others.tolist()) == set(range(2, END))


def test_the_choice_is_the_sentences_own():
    """It depends on its key, and not on what else is in the batch."""
    ids, lengths = sentences(30, 50)
    both = mask_tokens(ids, lengths, [7, 8], 0.15, V)
    alone = mask_tokens(ids[1:], lengths[1:], [8], 0.15, V)
    assert all(torch.equal(one[1:], other) for one, other in zip(both, alone, strict=True))
    assert not torch.equal(mask_tokens(ids, lengths, [9, 8], 0.15, V)[1][0], both[1][0])


def test_the_loss_is_of_guessed_tokens_however_a_step_is_cut():
    torch.manual_seed(0)
    model = MaskedLM(V, 8, 2, 1).eval()
    method = MaskedLMMethod(model, SimpleNamespace(parameters=list(model.parameters())), 0.2)
    ids, lengths = sentences(10, 10, 25)
    totals = Totals(3, int(lengths.sum()) - 3, 0)  # labels count <eos>

    def part(rows: slice):
        batch = Batch(list("abc")[rows], {"ids": ids[rows], "lengths": lengths[rows]})
        return method.part(MicroBatch(batch, totals, [1, 2, 3][rows]))

    whole = part(slice(0, 3))
    hidden, chosen = mask_tokens(ids, lengths, [1, 2, 3], 0.2, V)
    scores = model.states(hidden, lengths)[-1] @ model.embed.weight[:V].T + model.bias
    expected = torch.nn.functional.cross_entropy(scores[chosen], ids[chosen], reduction="sum")
    torch.testing.assert_close(whole.loss, expected / (0.2 * 45), rtol=1e-5, atol=1e-6)
    assert float(whole.figures["loss"][0]) == float(expected.detach()) and whole.figures["loss"][1] == 9
    cut = [part(slice(0, 1)).loss, part(slice(1, 3)).loss]
    torch.testing.assert_close(sum(cut), whole.loss, rtol=1e-5, atol=1e-6)
