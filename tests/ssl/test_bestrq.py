"""BEST-RQ: the loss by hand, no leak of what is hidden, padding, gradients, alarms."""

import math

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.bestrq import BestRQ
from espnet_ext.ssl.build import build_objective
from espnet_ext.ssl.encode import features_of
from espnet_ext.ssl.masks import draw_spans
from espnet_ext.train.keys import generator
from espnet_ext.train.method import Totals
from espnet_ext.train.world import World

KEYS = [11, 22, 33]


def alarms(objective):
    objective.watch.gather(World())
    return objective.alarms()


@pytest.fixture
def model(build_model):
    return build_model().train()


@pytest.fixture
def objective(model):
    return BestRQ(model, 20, seed=5, mask_span=4, codes=32, codebooks=2).train()


def test_loss_by_hand(model, objective, speech):
    """Mask, target, prediction and sum written out for one utterance."""
    samples, lengths = speech[0][:1], speech[1][:1]
    features, frames = features_of(model, samples, lengths)
    (features,), grid = features.detach(), objective.grid
    assert int(frames) == 201 and grid.frames(201) == 49
    spans = draw_spans(49, 0.4, 4, KEYS[0])
    hidden = sorted({f for a, b in spans for t in range(a, b) for f in range(4 * t, 4 * t + 7)})
    masked = features.clone()
    noise = generator(KEYS[0], "mask noise").standard_normal((len(hidden), 20), dtype=np.float32)
    masked[hidden] = torch.from_numpy(noise) * 0.1
    encoded = model.encoder(masked[None], frames)[0][0]  # (T', D)
    normal = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    total, count, correct = 0.0, 0, 0
    for start, stop in spans:
        for t in range(start, stop):
            codes = objective.quantiser(normal[4 * t + 1 : 4 * t + 5].reshape(1, 80))[
                0
            ]  # of 7 frames the middle 4
            for book, scores in enumerate(objective.head(encoded[t]).view(2, 32)):
                total = total - scores.log_softmax(0)[codes[book]] / 2
                correct += int(scores.argmax() == codes[book]) / 2
            count += 1
    predictions = objective.predict(model, samples, lengths, KEYS[:1])
    assert predictions.count == count
    assert float(predictions.correct) == pytest.approx(correct)
    torch.testing.assert_close(predictions.loss_sum, total, rtol=1e-5, atol=0)
    # Fresh codes are nearly equally likely.
    assert total.item() / count == pytest.approx(math.log(32), rel=0.15)


def test_alone_equals_in_batch(model, objective, speech, alone):
    """Loss and encoder gradient of a padded batch are sums over its utterances alone."""
    samples, lengths = speech
    for row, length in enumerate(lengths):
        samples[row, length:] = 9.0
    model.zero_grad()
    together = objective.predict(model, samples, lengths, KEYS)
    together.loss_sum.backward()
    expected = {n: p.grad.clone() for n, p in model.encoder.named_parameters()}
    model.zero_grad()
    singles = [objective.predict(model, *alone(speech, row), KEYS[row : row + 1]) for row in range(3)]
    total = sum(single.loss_sum for single in singles)
    total.backward()
    assert together.count == sum(single.count for single in singles)
    torch.testing.assert_close(together.loss_sum, total, rtol=1e-5, atol=0)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in model.encoder.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() <= 1e-5 * scale, name


def test_what_is_hidden_leaves_no_trace(model, objective, speech, monkeypatch):
    """The encoder's input holds no number that depends on the features from which a target is made."""
    samples, lengths = speech
    seen = []

    def features(*_):
        return base.clone(), frames

    base, frames = features_of(model, samples, lengths)
    rows, times, hidden, _ = objective._draw(frames.tolist(), KEYS, 20)
    first = times * 4 + 1
    for row, start in zip(rows.tolist(), first.tolist(), strict=True):
        for frame in range(start, start + 4):
            assert ((hidden[0] == row) & (hidden[1] == frame)).any()
    monkeypatch.setattr("espnet_ext.ssl.bestrq.features_of", features)
    monkeypatch.setattr(
        "espnet_ext.ssl.bestrq.encode", lambda m, x, n: (seen.append(x.clone()), m.encoder(x, n)[0])[1]
    )
    objective.predict(model, samples, lengths, KEYS)
    base[hidden[0], hidden[1]] += 100.0
    objective.predict(model, samples, lengths, KEYS)
    assert torch.equal(seen[0], seen[1])
    untouched = torch.ones(base.shape[:2], dtype=torch.bool)
    untouched[hidden[0], hidden[1]] = False
    assert torch.equal(seen[1][untouched], base[untouched])


def test_targets_can_be_of_features_as_the_model_normalises_them(model, speech):
    features, lengths = features_of(model, *speech)
    features = features + torch.arange(20.0)
    rows, frames = torch.tensor([0, 2]), torch.tensor([3, 10])
    found = {}
    for way in ("model", "utterance"):
        objective = BestRQ(model, 20, seed=5, codes=4096, normalise=way)
        found[way] = objective.targets(features, lengths, rows, frames)
        seen = [features[row, 4 * t + 1 : 4 * t + 5].flatten() for row, t in zip(rows, frames, strict=True)]
    assert torch.equal(found["model"], objective.quantiser(torch.stack(seen)))
    assert not torch.equal(found["model"], found["utterance"])


def test_masks_come_from_the_key_alone(model, objective, speech):
    torch.manual_seed(1)
    first = objective.predict(model, *speech, KEYS).loss_sum
    torch.manual_seed(2)
    assert torch.equal(objective.predict(model, *speech, KEYS).loss_sum, first)
    assert not torch.equal(objective.predict(model, *speech, [11, 22, 34]).loss_sum, first)


def test_too_short_utterances_cost_nothing(model, objective, speech):
    """Fewer frames than one encoder frame reads: alone they give a loss of zero, beside others none."""
    short = torch.randn(2, 900), torch.tensor([900, 500])
    predictions = objective.predict(model, *short, KEYS[:2])
    assert predictions.count == 0 and predictions.loss_sum.item() == 0
    predictions.loss_sum.backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in objective.parameters())
    samples, lengths = speech[0].clone(), speech[1].clone()
    alone = objective.predict(model, samples[:2], lengths[:2], KEYS[:2])
    lengths[2] = 700
    beside = objective.predict(model, samples, lengths, KEYS)
    assert beside.count == alone.count
    torch.testing.assert_close(beside.loss_sum, alone.loss_sum, rtol=1e-5, atol=0)
    beside.loss_sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_who_receives_gradient(model, objective, speech):
    """Encoder and head do; decoder, CTC, projection and codebook never."""
    objective.predict(model, *speech, KEYS).loss_sum.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert all(parameter.grad.abs().max() > 0 for parameter in objective.parameters())
    assert not objective.quantiser.projection.requires_grad and not objective.quantiser.codebook.requires_grad
    assert "head.weight" in dict(objective.named_parameters()) and not any(
        "encoder" in name for name in objective.state_dict()
    )


def test_denominator_is_the_expected_number_of_predictions(model, objective):
    """Sum over predictions / expected number = mean over predictions, on average over masks and lengths."""
    lengths = list(range(100, 140))
    expected = objective.expected(Totals(len(lengths), 0, sum(lengths)))
    counts = [
        len(objective._draw(lengths, range(first, first + 40), 1)[0]) for first in range(0, 60 * 40, 40)
    ]  # the number of masked frames of 40 utterances, 60 times
    deviation = np.std(counts) / len(counts) ** 0.5
    assert abs(np.mean(counts) - expected) < 4 * deviation and deviation < 0.01 * expected


def test_validation_masks_are_the_utterances_own(model, objective, speech):
    from espnet_ext.train.data import Batch
    from espnet_ext.train.method import MicroBatch

    def figures(names):
        batch = Batch(names, {"speech": speech[0], "speech_lengths": speech[1]})
        with torch.no_grad():
            return objective.eval().validate(model.eval(), MicroBatch(batch, Totals(3, 0, 400), None))

    first, second = figures(["a", "b", "c"]), figures(["a", "b", "c"])
    assert torch.equal(first["loss_unsupervised"][0], second["loss_unsupervised"][0])
    assert first["loss_unsupervised"][1] == second["loss_unsupervised"][1] > 0
    assert not torch.equal(first["loss_unsupervised"][0], figures(["a", "b", "d"])["loss_unsupervised"][0])


def test_alarms(model, objective, speech):
    assert alarms(objective) == []
    objective.predict(model, *speech, KEYS)
    assert alarms(objective) == []  # random features are diverse
    with torch.no_grad():
        model.encoder.after_norm.weight.zero_()
        model.encoder.after_norm.bias.fill_(1.0)  # every output is the same vector
    objective.quantiser.codebook.copy_(objective.quantiser.codebook[:, :1])  # one code wins everywhere
    objective.least_use = 0.04
    objective.predict(model, *speech, KEYS)
    codes, vectors = alarms(objective)
    assert "of the codes" in codes and "normalise: utterance" in codes
    assert "point the same way" in vectors
    objective.eval().predict(model, *speech, KEYS)
    assert alarms(objective) == []  # validation is not watched


def test_the_alarm_warns_or_stops(model, monkeypatch, capsys):
    warning = build_objective("bestrq", {"alarm_steps": 10}, model, None, 0)
    stopping = build_objective("bestrq", {"alarm_steps": 10, "alarm": "stop"}, model, None, 0)
    for objective in (warning, stopping):
        monkeypatch.setattr(objective, "alarms", lambda: ["all codes are one"])
        objective.check_health(World(), step=8)  # not yet
    warning.check_health(World(), step=9)
    assert capsys.readouterr().out == "warning: step 10: bestrq looks collapsed: all codes are one\n"
    with pytest.raises(UserError, match="step 10: bestrq looks collapsed: all codes are one"):
        stopping.check_health(World(), step=9)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mask_rate": 0.6}, r"mask_rate: 0.6: expected in \(0, 0.5\]"),
        (None, "ssl_conf: expected options as `mask_rate: ...`, got None"),
        ({"noise": math.inf}, "noise: inf: expected not negative, and finite"),
        ({"least_use": math.nan}, r"least_use: nan: expected from 0 \(never an alarm\) to 1"),
        ({"least_use": 2.0}, "least_use: 2.0: expected from 0"),  # a percentage would always warn
        ({"least_spread": math.nan}, r"least_spread: nan: expected from 0 \(never an alarm\) to 1"),
        ({"mask_rate": "4e-1"}, "mask_rate: '4e-1': expected a number"),
        ({"mask_span": 2.5}, "mask_span: 2.5: expected a whole number"),
        ({"alarm_steps": "often"}, "alarm_steps: 'often': expected a whole number"),
        ({"mask_span": 0}, "mask_span: 0: expected at least 1"),
        ({"stack": 8}, "stack: 8: expected from 1 to 7"),
        ({"normalise": "batch"}, "normalise: batch: expected utterance or model"),
        ({"codes": 1}, "codes: 1"),
        ({"alarm": "no"}, "alarm: no: expected warn or stop"),
        ({"alarm_steps": 0}, "alarm_steps: 0: expected at least 1"),
        ({"mask_prob": 0.1}, "bestrq has no option mask_prob; it has mask_rate, mask_span"),
    ],
)
def test_bad_options(model, option, message):
    with pytest.raises(UserError, match=message):
        build_objective("bestrq", option, model, None, 0)


def test_options_of_the_other_objective_are_not_read(model, capsys):
    """A YAML file with bestrq's options, and `--ssl infonce`: one switch. A typing error is still refused."""
    options = {"mask_rate": 0.3, "codes": 64, "temperature": 0.2, "least_spread": 0.03}
    infonce = build_objective("infonce", options, model, None, 0)
    assert (infonce.temperature, infonce.least_spread) == (0.2, 0.03)
    assert capsys.readouterr().out == "ssl_conf: codes, mask_rate: no options of infonce, not read\n"
    with pytest.raises(UserError, match="infonce has no option mask_rat; it has context"):
        build_objective("infonce", {**options, "mask_rat": 0.3}, model, None, 0)


def test_unknown_objective(model):
    with pytest.raises(UserError, match="--ssl wav2vec: expected one of bestrq, infonce"):
        build_objective("wav2vec", {}, model, None, 0)
