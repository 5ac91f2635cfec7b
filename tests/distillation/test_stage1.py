"""Stage 1: who receives gradient, which frames count, what a step learns, and trainings on a toy corpus."""

import numpy as np
import pytest
import torch

from espnet_ext.distillation.options import RULES, encoder_options
from espnet_ext.errors import UserError
from espnet_ext.train.method import MicroBatch, Position
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.world import World
from tests.distillation.stage1_toy import BOTH, Uneven, build, gradients, micro_of, train


@pytest.mark.parametrize("rule", RULES)
def test_one_teacher_trains_as_one_teacher(toy, rule):
    """Y1: and the same loss and gradient of the encoder, to the bit."""
    targets = toy.dump()
    results = []
    for each in ("sum_heads", rule):
        method, streams, _ = build(toy, targets, {"teachers": {"one": 2.0}, "rule": each})
        for head in method.heads.values():
            torch.nn.init.constant_(head.weight, 0.1)
        results.append(gradients(method, micro_of(method, streams)))
    (loss, one), (other, same) = results
    assert torch.equal(loss, other)
    encoder = [name for name in one if name.startswith("model.encoder")]
    assert len(encoder) > 10 and all(torch.equal(one[name], same[name]) for name in encoder)


def test_identical_teachers(toy, noise_teacher):
    """Y2: copies whose weights add up to one give the encoder the gradient of one teacher."""
    one = noise_teacher(6, 1)
    targets = toy.dump(one=one, copy=one, third=one)
    results = []
    for teachers in ({"one": 1}, {"one": 1, "copy": 2, "third": 5}):
        method, streams, _ = build(toy, targets, {"teachers": teachers})
        for head in method.heads.values():
            head.load_state_dict(method.heads["one"].state_dict())
        results.append(gradients(method, micro_of(method, streams)))
    (loss, single), (same, several) = results
    torch.testing.assert_close(loss, same)
    for name in single:
        if name.startswith("model."):
            torch.testing.assert_close(single[name], several[name])
    torch.testing.assert_close(several["head.third.weight"], single["head.one.weight"] * 5 / 8)


def test_weight_zero_is_no_teacher(toy):
    """Y3: not even its file is looked for; nor is a projection made."""
    targets = toy.dump(one=toy.teachers["one"])
    method, streams, _ = build(toy, targets, {"teachers": {"one": 1.0, "absent": 0.0}})
    assert list(method.heads) == ["one"]
    with pytest.raises(UserError, match="absent: holds no embeddings"):
        build(toy, targets, {"teachers": {"one": 1.0, "absent": 0.1}})


def test_who_receives_gradient(toy):
    """Encoder and projections; prediction network, joint network and CTC do not."""
    method, streams, _ = build(toy, toy.dump(), BOTH | {"cosine": 0.5})
    _, found = gradients(method, micro_of(method, streams))
    parts = {name.split(".")[1] if name.startswith("model") else name.split(".")[0] for name in found}
    assert parts == {"encoder", "head"}
    assert all(bool((g != 0).any()) for n, g in found.items() if n.endswith("weight"))
    names = {n for n, _ in method.model.named_parameters() if n.startswith("encoder.")}
    assert {n.removeprefix("model.") for n in found if n.startswith("model.")} == names


def test_targets_hear_no_masks(toy):
    """Y6: the student's masks and noise are its own; a target is the same for the same utterance."""
    method, streams, _ = build(toy, toy.dump(), BOTH)
    micro = micro_of(method, streams)
    target = method.targets.batch(micro.batch)["one"]
    for row, utterance in enumerate(micro.batch.utterances):
        embedded = toy.teachers["one"].embed([_as_dumped(toy.audio[utterance])])[0]
        halved = embedded[: len(embedded) // 2 * 2].view(-1, 2, 6).mean(1)
        expected = method.targets.combiner.transforms["one"](halved)
        got = target.values[row, : int(target.lengths[row])]
        assert got.shape == expected.shape and (got - expected).abs().max() < 0.01
    masked, plain = (
        float(method.part(MicroBatch(micro.batch, micro.totals, keys)).loss.detach())
        for keys in (micro.keys, None)
    )
    assert masked != plain


def _as_dumped(samples):
    return (np.rint(samples * 32768).clip(-32768, 32767) / 32768).astype(np.float32)


def test_padding_changes_nothing(toy):
    """Y7: a batch of all is the sum of batches of one; frames beyond the common length do not count."""
    method, streams, _ = build(toy, toy.dump(), BOTH)
    method.train(False)
    data = streams["labelled"].data
    names = sorted(data.lengths)[:4]
    batch = next(data.batches([tuple(names)], 0))
    together = method.validate(MicroBatch(batch, streams["labelled"].totals(names), None))
    singles = [next(data.batches([(name,)], 0)) for name in names]
    alone = [method.validate(MicroBatch(b, streams["labelled"].totals(b.utterances), None)) for b in singles]
    for figure, (total, weight) in together.items():
        assert weight == sum(each[figure][1] for each in alone)
        expected = sum(float(each[figure][0]) for each in alone)
        assert float(total) == pytest.approx(expected, rel=1e-5)
    assert together["l1_one"][1] == streams["labelled"].totals(names).target_frames


@pytest.mark.parametrize("rule", [*RULES, "codes"])
def test_only_common_frames_count(toy, rule, monkeypatch):
    """Y7: with teachers shorter and longer than the student, one not drawn included: the loss is a mean over
    the frames that all have, whatever stands behind them."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    teachers = {"one": Uneven(6, 1), "two": Uneven(6, 2)}
    teachers["one"].extra, teachers["two"].extra = -3, 2
    conf = {"teachers": {"one": 1.0, "two": 1.0}, "rule": rule}
    if rule == "codes":
        conf |= {"rule": "sum_heads", "loss": "codes"}
    method, streams, _ = build(toy, toy.dump("rvq2" if rule == "codes" else "fp16", **teachers), conf)
    method.train(False)
    stream = streams["labelled"]
    names = sorted(stream.data.lengths)[:6]
    batch = next(stream.data.batches([tuple(names)], 0))
    count = sum((len(toy.audio[name]) - 400) // 320 + 1 - 6 >> 1 for name in names)
    assert stream.totals(names).target_frames == count
    losses = []
    for junk in (0, 7):
        for name, target in method.targets.batch(batch).items():
            for row, length in enumerate(target.lengths.tolist()):
                batch.tensors[f"target_{name}"][row, length:] = junk
        figures = method.validate(MicroBatch(batch, stream.totals(names), None))
        assert {weight for _, weight in figures.values()} == {count}
        losses.append({name: float(total) for name, (total, _) in figures.items()})
    assert losses[0] == losses[1]
    # The mean is not one over more frames than were added up, nor over fewer.
    expected, student = losses[0]["loss"] / count, method.part(MicroBatch(batch, stream.totals(names), None))
    assert float(student.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_loss(toy):
    """The cosine term and the further stream have weights of their own, and each stream a mean of its own."""
    words = [f"--unlabelled_data_dir={toy.unlabelled}"]
    words += [f"--unlabelled_stats_dir={toy.folder / 'further_stats'}"]
    conf = {"teachers": {"one": 1.0}, "cosine": 0.25, "unlabelled_weight": 0.5}
    method, streams, _ = build(toy, toy.dump(), conf, *words)
    for name, part, weight in (
        ("labelled", method.part, 1.0),
        ("unlabelled", method.unlabelled_part, 0.5),
    ):
        micro = micro_of(method, streams, name)
        found = part(micro)
        suffix = "_unlabelled" if name == "unlabelled" else ""
        l1, cosine = (float(found.figures[f"{kind}_one{suffix}"][0]) for kind in ("l1", "cosine"))
        assert cosine > 1 and micro.totals.target_frames >= found.figures[f"l1_one{suffix}"][1]
        expected = weight * (l1 + 0.25 * cosine) / micro.totals.target_frames
        assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_what_is_trained(toy):
    """The optimiser has the encoder and the projections, and nothing else: no decay of the other weights."""
    method, _, _ = build(toy, toy.dump(), BOTH)
    own = [p for group in method.updaters["encoder"].optimizer.param_groups for p in group["params"]]
    wanted = [*method.model.encoder.parameters(), *method.heads.parameters()]
    assert {id(p) for p in own} == {id(p) for p in wanted} and len(own) == len(wanted)


def test_random_teacher_in_the_loader(toy):
    """Over the passes an utterance gets each teacher's embedding, reduced to one size."""
    method, streams, _ = build(toy, toy.dump(), BOTH | {"rule": "random", "size": 4})
    data = streams["labelled"].data
    order = [("u03",)] * 30
    seen = set()
    for passes, _ in enumerate(order):
        batch = next(data.batches([("u03",)], 0, passes=passes))
        target = method.targets.batch(batch)["all"]
        assert target.values.shape[2] == 4
        seen.add(round(float(target.values.sum()), 3))
    assert len(seen) == 2


def test_mean_over_the_step(toy):
    """The loss of a step does not depend on how it is cut into micro-batches."""
    targets, results = toy.dump(), []
    # Adam makes much of the rounding of a small gradient.
    plain = {"specaug": None, "optim": "sgd", "optim_conf": {"lr": 1.0}}
    for micro in ("0", "120"):
        method, streams, _ = build(toy, targets, BOTH, f"--frames_per_micro_batch={micro}", **plain)
        runner = StepRunner(method, streams, World(), 1)
        method.train(False)  # no dropout, which has keys of its own for each micro-batch
        step = streams["labelled"].next()
        assert len(step.batches) > (micro != "0")
        position = Position(1, 0, 0)
        runner.run(method.turns(position)[0], {"labelled": step}, {}, position)
        results.append(method.model.state_dict())
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-4, atol=2e-6, msg=name)


def test_every_teacher_is_learnt(toy):
    """Y15: on held-out frames the distance to each teacher falls; unlabelled audio counts too."""
    rows, summary = train(
        toy,
        "one",
        f"--targets_dir={toy.dump()}",
        f"--unlabelled_data_dir={toy.unlabelled}",
        f"--unlabelled_stats_dir={toy.folder / 'further_stats'}",
        distillation_conf=BOTH,
        max_epoch=6,
        optim_conf={"lr": 0.01},
    )
    for name in ("l1_one", "l1_two"):
        first, last = (float(rows[i][f"valid_{name}"]) for i in (0, -1))
        assert last < 0.99 * first, name
        assert f"train_{name}_unlabelled" in rows[0]
    assert summary["batches"]["unlabelled"] == summary["batches"]["labelled"] > 0
    assert summary["teachers"] == {"one": 0.25, "two": 0.75}
    assert (toy.folder / "one" / "head" / "nbest.json").exists()


@pytest.mark.parametrize("rule", ["random", "average", "concat"])
def test_other_rules_train(toy, rule):
    rows, _ = train(
        toy,
        rule,
        f"--targets_dir={toy.dump()}",
        distillation_conf={"teachers": {"one": 1, "two": 1}, "rule": rule, "cosine": 0.1},
    )
    assert np.isfinite(float(rows[-1]["valid_l1_all"])) and "valid_cosine_all" in rows[-1]


def test_codes_train(toy, monkeypatch):
    """Residual quantisation, decoded and as codes, out of the same store."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    targets = toy.dump("rvq2", one=toy.teachers["one"])
    for loss in ("codes", "l1"):
        rows, _ = train(
            toy, loss, f"--targets_dir={targets}", distillation_conf={"teachers": {"one": 1}, "loss": loss}
        )
        assert np.isfinite(float(rows[-1][f"valid_{loss}_one"]))


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({}, "none has a weight above 0"),
        ({"teachers": {"a": -1}}, "weights of 0 or more"),
        ({"teachers": {"a": float("inf")}}, "weights of 0 or more"),
        ({"teachers": {"a": 1}, "cosine": float("inf")}, "cosine inf: expected 0 or more"),
        ({"teachers": {"a": 1}, "rule": "sum"}, "rule sum: expected one of"),
        ({"teachers": {"a": 1}, "cosine": "1e-3"}, "cosine '1e-3': expected a number"),
        ({"teachers": {"a": 1}, "lambda": 1}, "unknown lambda"),
        ({"teachers": {"a": 1}, "loss": "codes", "rule": "average"}, "needs rule: sum_heads"),
        ({"teachers": {"a": 1, "b": 2}, "rule": "concat"}, "give equal weights"),
        ({"teachers": {"a": 1}, "tolerance": True}, "tolerance True: expected a whole number"),
    ],
)
def test_bad_options(conf, message):
    with pytest.raises(UserError, match=message):
        encoder_options(conf)


def test_further_audio_that_is_none(toy):
    """An empty set is said to be one."""
    (toy.folder / "further_stats" / "speech_shape").write_text("")
    words = [f"--unlabelled_data_dir={toy.unlabelled}"]
    words += [f"--unlabelled_stats_dir={toy.folder / 'further_stats'}"]
    with pytest.raises(UserError, match="further_stats/speech_shape: holds no utterance"):
        build(toy, toy.dump(), BOTH, *words)


def test_bad_stores(toy):
    """Another frame rate, a set that is not there, audio that has changed: said before training."""
    targets = toy.dump()
    with pytest.raises(UserError, match=r"settings.json: a frame every 640 samples, the student's are 1024"):
        build(toy, targets, BOTH, frontend_conf={"n_fft": 512, "hop_length": 256, "n_mels": 20})
    path = toy.data / "content"
    path.write_text("changed\n")
    with pytest.raises(UserError, match=f"the audio of {toy.data} has changed since"):
        build(toy, targets, BOTH)
    (toy.folder / "stats" / "speech_shape").write_text("u00 99999\n")
    path.write_text(f"corpus {sum(map(len, toy.audio.values()))}\n")
    with pytest.raises(UserError, match="'u00': the student has 155 frames, teacher one has"):
        build(toy, targets, BOTH)
