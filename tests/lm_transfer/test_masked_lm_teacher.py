"""The small masked LM as a teacher: one embedding to each of the recogniser's tokens."""

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.dump import token_embeddings
from espnet_ext.lm_transfer.masked_lm import MaskedLM
from espnet_ext.lm_transfer.teachers import load_teacher


def test_masked_lm_gives_each_token_its_own_state(masked_folder, tokenizer):
    """Evaluation mode; the state of a token, not of its neighbour; <eos> has that of the end; layers."""
    teacher = load_teacher(str(masked_folder), tokenizer)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    ids = tokenizer.encode("bad c")
    found = teacher.embed([tokenizer.encode("a"), ids])
    np.testing.assert_array_equal(found[1], teacher.embed([tokenizer.encode("a"), ids])[1])
    with torch.no_grad():
        states = teacher.model.states(torch.tensor([[8, *ids, 8]]), torch.tensor([len(ids) + 2]))
    np.testing.assert_allclose(found[1], states[-1][0, 1:], atol=1e-5)
    other = load_teacher(str(masked_folder), tokenizer, "mean:2")
    assert other.identity != teacher.identity
    np.testing.assert_allclose(other.embed([ids])[0], (states[-1] + states[-2])[0, 1:] / 2, atol=1e-5)
    found = token_embeddings("bad c", tokenizer, teacher.split("bad c"), found[1])
    np.testing.assert_allclose(found, states[-1][0, 1:], atol=1e-5)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "lm.pth").unlink(), "lm.pth: no such model file"),
        (lambda f: (f / "lm.pth").write_bytes(b"x" * 50), "lm.pth: cannot be read as a file of tensors"),
        (lambda f: torch.save({"a": torch.ones(1)}, f / "lm.pth"), "lm.pth: does not fit lm.yaml"),
        (lambda f: (f / "lm.yaml").write_text("a: [\n"), "lm.yaml: is not what lm_train writes"),
        (lambda f: (f / "lm.yaml").write_text("model: 3\n"), "lm.yaml: is not what lm_train writes"),
        (lambda f: (f / "lm.yaml").write_text(""), "lm.yaml: is not what lm_train writes"),
    ],
)
def test_damaged_masked_lm(masked_folder, tokenizer, spoil, message):
    spoil(masked_folder)
    with pytest.raises(UserError, match=message):
        load_teacher(str(masked_folder), tokenizer)


def test_layers_that_a_masked_lm_lacks(masked_folder, tokenizer):
    with pytest.raises(UserError, match="--layers mean:4: the LM has only 3 layers"):
        load_teacher(str(masked_folder), tokenizer, "mean:4")


def test_masked_lm_ignores_padding_and_reads_both_ways():
    torch.manual_seed(0)
    model = MaskedLM(9, 16, 2, 2).eval()
    ids = torch.tensor([[8, 3, 4, 5, 8], [8, 6, 8, 1, 2]])
    with torch.no_grad():
        together = model.states(ids, torch.tensor([5, 3]))[-1]
        alone = model.states(ids[1:, :3], torch.tensor([3]))[-1]
        changed = model.states(torch.tensor([[8, 3, 4, 7, 8]]), torch.tensor([5]))[-1]
    torch.testing.assert_close(together[1, :3], alone[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[0].mean(-1), torch.zeros(5), rtol=0, atol=1e-5)  # the last norm's
    assert (changed[0, 1] - together[0, 1]).abs().max() > 1e-4  # the token in front of the changed one
