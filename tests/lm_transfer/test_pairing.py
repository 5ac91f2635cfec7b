"""K10: the target of a label is that label's own: place and token are read back from a teacher that writes
them.
"""

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.targets import Targets

VOCABULARY = 9


def make(store, texts, **options) -> Targets:
    return Targets(store, texts, VOCABULARY, standardise=options.pop("standardise", False), **options)


def test_each_label_has_its_own_target(make_store, transcripts, fake_teacher, speech):
    """State u predicts label u + 1 = text[u]; its target says (u, text[u]); the state behind the last,
    <eos>.
    """
    found = make(make_store([transcripts], fake_teacher), [transcripts]).batch(speech)
    text, lengths = speech.tensors["text"], speech.tensors["text_lengths"]
    for row, length in enumerate(lengths.tolist()):
        assert found.there[row].tolist() == [u <= length for u in range(text.size(1) + 1)]
        for u in range(length):
            assert found.values[row, u].tolist() == [u, int(text[row, u]), length]
        assert found.values[row, length].tolist() == [length, -1, length]
        assert found.values[row, length + 1 :].eq(0).all()


def test_attention_states_meet_the_labels_that_they_predict(
    make_store, transcripts, fake_teacher, speech, build_asr
):
    """The decoder's targets of the cross-entropy and of the embedding stand at the same places."""
    found = make(make_store([transcripts], fake_teacher), [transcripts]).batch(speech)
    output = build_asr().eval().outputs(**speech.tensors)
    assert output.decoder_hidden.shape[:2] == output.targets.shape == found.there.shape
    real = output.targets != -1
    assert torch.equal(real, found.there)
    inner = real & (output.targets != VOCABULARY - 1)
    assert torch.equal(found.values[..., 1][inner].long(), output.targets[inner])
    assert found.values[..., 1][real & ~inner].eq(-1).all()


@pytest.mark.parametrize("shift", [1, -1, 9])
def test_shift(make_store, transcripts, fake_teacher, speech, shift):
    """The control of the pairing: label u meets the embedding of u + shift, and none where there is none."""
    store = make_store([transcripts], fake_teacher)
    right, moved = (make(store, [transcripts], shift=s).batch(speech) for s in (0, shift))
    for row, length in enumerate(speech.tensors["text_lengths"].tolist()):
        for u in range(length + 1):
            if 0 <= u + shift <= length:
                assert torch.equal(moved.values[row, u], right.values[row, u + shift])
            else:
                assert not moved.there[row, u] and moved.values[row, u].eq(0).all()


def test_standardised(make_store, transcripts, fake_teacher, speech):
    """Over the training set every dimension has mean 0 and variance 1; one that never changes is 0."""
    embed = fake_teacher.embed
    fake_teacher.embed = lambda ids: [np.pad(e, ((0, 0), (0, 1)), constant_values=7.0) for e in embed(ids)]
    fake_teacher.size = 4
    found = make(make_store([transcripts], fake_teacher), [transcripts], standardise=True).batch(speech)
    rows = found.values[found.there]
    torch.testing.assert_close(rows.mean(0), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.pow(2).mean(0), torch.tensor([1.0, 1.0, 1.0, 0.0]), rtol=1e-5, atol=1e-6)


def test_static_targets_know_only_the_token(make_store, transcripts, fake_teacher, speech):
    store = make_store([transcripts], fake_teacher)
    found = make(store, [transcripts], kind="static").batch(speech)
    contextual = make(store, [transcripts]).batch(speech)
    text = torch.nn.functional.pad(speech.tensors["text"], (0, 1), value=-1)
    text[torch.arange(4), speech.tensors["text_lengths"]] = VOCABULARY - 1
    assert torch.equal(found.there, contextual.there)
    for token in text[found.there].unique():
        own = (text == token) & found.there
        mean = contextual.values[own].mean(0)
        torch.testing.assert_close(found.values[own], mean.expand(int(own.sum()), -1), rtol=1e-5, atol=1e-6)


def test_static_targets_are_standardised_as_the_others(make_store, transcripts, fake_teacher, speech):
    store = make_store([transcripts], fake_teacher)
    static, contextual = (
        make(store, [transcripts], kind=kind, standardise=True).batch(speech)
        for kind in ("static", "contextual")
    )
    places = (speech.tensors["text"] == 3).nonzero().tolist()  # "a", in three transcripts
    rows = torch.stack([contextual.values[row, u] for row, u in places])
    for row, u in places:
        torch.testing.assert_close(static.values[row, u], rows.mean(0), rtol=1e-4, atol=1e-5)


def test_random_targets_are_fixed_vectors_of_the_tokens(make_store, transcripts, fake_teacher, speech):
    """K9's targets: the same for a token everywhere and in every training, different for each token."""
    store = make_store([transcripts], fake_teacher)
    found, again = (make(store, [transcripts], kind="random").batch(speech).values for _ in range(2))
    assert torch.equal(found, again)
    text = speech.tensors["text"]
    seen = {int(token): found[:, :-1][text == token] for token in text[text >= 0].unique()}
    assert all(rows.eq(rows[0]).all() for rows in seen.values())
    assert len({tuple(rows[0].tolist()) for rows in seen.values()}) == len(seen)


def test_a_token_without_embedding_has_no_target(make_store, transcripts, fake_teacher, speech):
    embed = fake_teacher.embed

    def without_second(ids):
        found = embed(ids)
        for each in found:
            each[1:2] = np.nan
        return found

    fake_teacher.embed = without_second
    store = make_store([transcripts], fake_teacher)
    found = make(store, [transcripts], standardise=True).batch(speech)
    assert not found.there[:, 1].any() and found.there[:, 0].all() and found.values[:, 1].eq(0).all()


def test_targets_that_are_missing_or_stale(make_store, write_text, transcripts, fake_teacher):
    store = make_store([transcripts], fake_teacher)
    changed = write_text("dump2/text", {"utt0": "bad cab", "utt1": "aced"})
    with pytest.raises(UserError, match="dump2/text: utterance 'utt1' has another transcript than in"):
        make(store, [transcripts, changed])
    targets = make(store, [changed])
    with pytest.raises(
        UserError, match="no targets of 1 of 2 utterances, the first is 'utt1' in .*dump2/text"
    ):
        targets.check({"utt0": 7, "utt1": 4})
    with pytest.raises(UserError, match="'utt0' has 8 targets for 5 labels and <eos>: .* other tokens"):
        targets.check({"utt0": 5})
    make(store, [transcripts]).check({"utt0": 7, "utt1": 3})
    make(store, [transcripts], shift=3).check({"utt0": 7, "utt1": 3})
    for shift in (8, -8):
        with pytest.raises(UserError, match=f"shift {shift}: no transcript has so many labels"):
            make(store, [transcripts], shift=shift).check({"utt0": 7, "utt1": 3})
