"""CPC: the loss by hand, cuts, no sight of the future, padding, gradients, alarm."""

import math

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.build import build_objective
from espnet_ext.ssl.contrast import info_nce
from espnet_ext.ssl.cpc import CPC
from espnet_ext.ssl.encode import features_of
from espnet_ext.train.method import Totals
from espnet_ext.train.world import World

KEYS = [11, 22, 33]
SMALL = {"context": 8, "least_context": 2, "future": 4, "stride": 6}


def alarms(objective):
    objective.watch.gather(World())
    return objective.alarms()


@pytest.fixture
def model(build_model):
    return build_model().train()


@pytest.fixture
def objective(model):
    return CPC(model, 20, seed=5, **SMALL).train()


def test_loss_by_hand(model, objective, speech):
    """Context, roll, future and choice written out for two utterances."""
    samples, lengths = speech[0][:2], speech[1][:2]
    features, frames = features_of(model, samples, lengths)
    total, count = 0.0, 0
    for row in range(2):
        offset = objective.draw_cuts([10**6], KEYS[row : row + 1])[1][0]  # least context + random offset
        cuts = range(offset, int(frames[row]) - 19 + 1, 24)  # 4 future frames read 19 feature frames
        predicted, targets = [], []
        for cut in cuts:
            reads = 4 * ((min(cut, 35) - 7) // 4) + 7  # 8 encoder frames read 35
            context = features[row : row + 1, cut - reads : cut]
            state = model.encoder(context, torch.tensor([context.size(1)]))[0][0, -1]
            future = model.encoder(features[row : row + 1, cut : cut + 19], torch.tensor([19]))[0][0]
            assert future.size(0) == 4
            for k in range(4):
                state = objective.roll(state)
                predicted.append(state)
                targets.append(future[k].detach())
        for i, own in enumerate(predicted):
            scores = []
            for j, target in enumerate(targets):
                if i != j and i // 4 == j // 4 and abs(i - j) <= 1:
                    continue  # a neighbour of the target is no negative
                scores.append(torch.cosine_similarity(own, target, dim=0) / 0.1)
                if i == j:
                    positive = scores[-1]
            total = total + torch.logsumexp(torch.stack(scores), 0) - positive
            count += 1
    predictions = objective.predict(model, samples, lengths, KEYS[:2])
    assert predictions.count == count > 20
    torch.testing.assert_close(predictions.loss_sum, total, rtol=1e-4, atol=0)


def test_alone_equals_in_batch(model, objective, speech, alone):
    samples, lengths = speech
    for row, length in enumerate(lengths):
        samples[row, length:] = 9.0
    together = objective.predict(model, samples, lengths, KEYS)
    together.loss_sum.backward()
    expected = {n: p.grad.clone() for n, p in model.encoder.named_parameters()}
    model.zero_grad()
    singles = [objective.predict(model, *alone(speech, row), KEYS[row : row + 1]) for row in range(3)]
    total = sum(single.loss_sum for single in singles)
    total.backward()
    assert together.count == sum(single.count for single in singles)
    assert int(together.correct) == sum(int(single.correct) for single in singles)
    torch.testing.assert_close(together.loss_sum, total, rtol=1e-5, atol=0)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in model.encoder.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() <= 1e-5 * scale, name


def test_negatives_of_the_whole_batch_are_the_other_option(model, speech):
    rows = [0, 0, 1]
    own = CPC(model, 20, **SMALL).candidates(rows)
    everyone = CPC(model, 20, negatives="batch", **SMALL).candidates(rows)
    utterance = torch.tensor(rows).repeat_interleave(4)
    same = utterance[:, None] == utterance
    assert not own[~same].any() and everyone[~same].all()
    assert torch.equal(own[same], everyone[same])
    assert own.diagonal().all()
    assert own[0].tolist() == [True, False, True, True] + [True] * 4 + [False] * 4  # not its neighbour
    assert CPC(model, 20, neighbours=0, **SMALL).candidates([0]).all()


def test_cuts_are_everywhere_equally_often_and_as_many_as_expected(objective):
    """Place by place over many keys; and the number that the denominator expects, exactly on average."""
    length, least, reads = 120, objective.least, objective.reads
    places = np.zeros(length)
    tries = 24 * 100
    for key in range(tries):
        rows, cuts = objective.draw_cuts([length], [key])
        assert np.all(np.diff(cuts) == 24) and min(cuts) >= least and max(cuts) <= length - reads
        places[cuts] += 1
    allowed = places[least : length - reads + 1]
    assert places.sum() == allowed.sum()
    assert np.abs(allowed / tries - 1 / 24).max() < 5 * (1 / 24 / tries) ** 0.5
    expected = objective.expected(Totals(1, 0, length))
    assert allowed.sum() / tries * 4 == pytest.approx(expected, rel=0.02)
    assert len(allowed) / 24 * 4 == pytest.approx(expected)


def test_prediction_does_not_see_the_future(model, objective, speech, monkeypatch):
    """Other features behind a cut change neither its context nor what is rolled from it."""
    features, frames = features_of(model, *speech)
    rows, cuts = objective.draw_cuts(frames.tolist(), KEYS)
    predicted = []

    def spy(own, targets, *args):
        predicted.append(own.detach().clone())
        return info_nce(own, targets, *args)

    monkeypatch.setattr("espnet_ext.ssl.cpc.info_nce", spy)
    monkeypatch.setattr("espnet_ext.ssl.cpc.features_of", lambda *_: (features, frames))
    monkeypatch.setattr(objective, "draw_cuts", lambda *_: (rows[:1], cuts[:1]))
    objective.predict(model, *speech, KEYS)
    features[0, cuts[0] :] += 10.0
    objective.predict(model, *speech, KEYS)
    assert torch.equal(predicted[0], predicted[1])
    features[0, cuts[0] - 1] += 10.0
    objective.predict(model, *speech, KEYS)
    assert not torch.equal(predicted[0], predicted[2])


@pytest.mark.parametrize("option", ["none", "positives", "all"])
def test_targets_give_gradient_only_on_request(model, speech, option):
    objective = CPC(model, 20, target_gradient=option, **SMALL).train()
    real = model.encoder.forward
    gradients = []

    def watch(features, lengths):
        output, *rest = real(features, lengths)
        if features.size(1) == objective.reads and output.requires_grad:
            output.register_hook(gradients.append)
        return output, *rest

    model.encoder.forward = watch
    objective.predict(model, *speech, KEYS).loss_sum.backward()
    assert (len(gradients) == 0) == (option == "none")
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("encoder."), name
    assert objective.roll.weight.grad.abs().max() > 0


def test_too_short_utterances_cost_nothing(model, objective):
    predictions = objective.predict(model, torch.randn(2, 3000), torch.tensor([3000, 2500]), KEYS[:2])
    assert predictions.count == 0 and predictions.loss_sum.item() == 0
    predictions.loss_sum.backward()


def test_a_collapsed_encoder_costs_log_n_and_raises_the_alarm(model, speech):
    objective = CPC(model, 20, neighbours=0, **SMALL).train()
    objective.predict(model, *speech, KEYS)
    assert alarms(objective) == []
    with torch.no_grad():
        model.encoder.after_norm.weight.zero_()
        model.encoder.after_norm.bias.fill_(1.0)
    samples, lengths = speech[0][:1], speech[1][:1]
    predictions = objective.predict(model, samples, lengths, KEYS[:1])
    mean = predictions.loss_sum.item() / predictions.count
    assert mean == pytest.approx(math.log(predictions.count), rel=1e-4)
    (message,) = alarms(objective)
    assert "targets all point the same way" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"future": 12, "stride": 5}, "stride: 5: expected at least 13"),
        ({"temperature": 0.0}, "temperature: 0.0: expected above 0"),
        ({"temperature": math.inf}, "temperature: inf: expected above 0, and finite"),
        ({"future": 1}, "future: 1: expected at least 2"),
        ({"least_spread": math.nan}, "least_spread: nan: expected from 0"),
        ({"negatives": "other"}, "negatives: other: expected utterance or batch"),
        ({"target_gradient": "yes"}, "target_gradient: yes: expected none or positives or all"),
        ({"least_context": 60}, "context: 50: expected at least least_context, 60"),
        ({"neighbours": 11}, "neighbours: 11: expected from 0 to 10"),
    ],
)
def test_bad_options(model, option, message):
    with pytest.raises(UserError, match=message):
        build_objective("infonce", option, model, None, 0)
