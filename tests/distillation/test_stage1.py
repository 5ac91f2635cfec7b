"""Stage 1: rules of combination, losses, who receives gradient, and trainings on a toy corpus."""

import json

import numpy as np
import pytest
import torch

from espnet_ext.distillation.combine import Combiner, deviation
from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.distillation.health import VarianceWatch
from espnet_ext.distillation.losses import Heads, codes_sum, cosine_sum, l1_sum, valid_frames
from espnet_ext.distillation.options import RULES, encoder_options
from espnet_ext.distillation.targets import LiveTargets, StoredTargets, sample_summary
from espnet_ext.errors import UserError
from espnet_ext.train.method import MicroBatch, Position
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.world import World
from tests.distillation.conftest import NoiseTeacher

BOTH = {"teachers": {"one": 1.0, "two": 3.0}}


def build(toy, targets, conf, *options, **changes):
    """Method and streams as the task builds them."""
    world = World()
    words = [f"--targets_dir={targets}", *options]
    args = toy.args(EncoderTask, *words, distillation_conf=conf, **changes)
    torch.manual_seed(5)
    model = EncoderTask.build_model(args)
    streams = EncoderTask.build_streams(args, world)
    return EncoderTask.build_method(args, model, streams), streams, args


def micro_of(method, streams, name="labelled"):
    """The first micro-batch of a stream."""
    step = streams[name].next()
    number, batch = step.batches[0]
    return MicroBatch(batch, step.totals, streams[name].augment_keys(batch, 1), (0, number), (1,))


def gradients(method, micro):
    """Gradients by module and name of the loss of a micro-batch."""
    for module in method.modules.values():
        module.zero_grad()
    micro.seed("model")
    loss = method.part(micro).loss
    loss.backward()
    return loss.detach(), {
        f"{m}.{n}": p.grad
        for m, module in method.modules.items()
        for n, p in module.named_parameters()
        if p.grad is not None
    }


def summaries(sizes, seed=0):
    draw = np.random.default_rng(seed)
    return {
        name: sample_summary([draw.normal(3, 5, (50, n)) @ draw.normal(0, 1, (n, n)) for _ in range(9)])
        for name, n in sizes.items()
    }


@pytest.mark.parametrize("rule", RULES)
def test_one_teacher_is_one_teacher(rule):
    """Y1: with one teacher every rule gives its standardised embedding, to the bit."""
    found = summaries({"x": 6})
    frames = torch.randn(9, 6) * 5 + 3
    combiner = Combiner(rule, {"x": 1.0}, found)
    ((target),) = combiner({"x": frames}).values()
    expected = Combiner("sum_heads", {"x": 1.0}, found)({"x": frames})["x"]
    assert torch.equal(target, expected) and list(combiner.loss_weights.values()) == [1.0]


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


@pytest.mark.parametrize("extra", [-3, -1, 0, 1, 3])
def test_a_few_frames_more_or_less(extra):
    """Y7: the loss is over the frames that both have; whatever stands behind them is not looked at."""
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 10, 4, generator=draw), torch.randn(2, 13, 4, generator=draw)
    lengths = torch.tensor([10, 7]), torch.tensor([10 + extra, 7 + extra])
    size = min(10, int(lengths[1].max()))
    there = valid_frames(torch.minimum(*lengths), size)
    losses = []
    for junk in (0.0, 1e6):
        padded = target.clone()
        for row in range(2):
            padded[row, int(lengths[1][row]) :] = junk
        losses.append(l1_sum(predicted[:, :size], padded[:, :size], there))
    assert torch.equal(*losses)
    own = [min(10, 10 + extra), min(7, 7 + extra)]
    expected = sum((predicted[r, :n] - target[r, :n]).abs().mean(-1).sum() for r, n in enumerate(own))
    torch.testing.assert_close(losses[0], expected)


class Uneven(NoiseTeacher):
    """A teacher of some frames more or fewer than others."""

    extra = 0

    def frames(self, samples):
        return super().frames(samples) + 2 * self.extra


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


@pytest.mark.parametrize("rule", RULES)
def test_only_common_frames_of_live_teachers(toy, rule):
    """Y7: the same where teachers hear the batch, whether or not one was drawn."""
    method, streams, _ = build(toy, toy.dump(one=NoiseTeacher(6, 1)), {"teachers": {"one": 1}})
    teachers = {"one": Uneven(6, 1), "two": Uneven(6, 2)}
    teachers["two"].extra = -3
    combiner = Combiner(rule, {"one": 0.5, "two": 0.5}, summaries({"one": 6, "two": 6}))
    each = dict.fromkeys(teachers, 2), dict.fromkeys(teachers, "mean")
    live, data = LiveTargets(teachers, *each, combiner, 16000), streams["labelled"].data
    live.attach(data, str(toy.data))
    names = sorted(data.lengths)[:6]
    assert {each for name in names for each in combiner.chosen(0, name)} == set(teachers)
    expected = [(len(toy.audio[name]) - 400) // 320 + 1 - 6 >> 1 for name in names]
    for found in live.batch(next(data.batches([tuple(names)], 0))).values():
        assert found.lengths.tolist() == expected


def test_perfect_student():
    """Y8: no loss, and a gradient of zero, which is a number."""
    target = torch.randn(2, 5, 4)
    there = torch.ones(2, 5, dtype=torch.bool)
    predicted = target.clone().requires_grad_()
    loss = l1_sum(predicted, target, there) + cosine_sum(predicted, target, there)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-5) and predicted.grad.abs().max() < 1e-5
    other = (target + 1).requires_grad_()
    l1_sum(other, target, there).backward()
    assert (other.grad == 1 / 4).all()


def test_cosine_counts_valid_frames():
    """1 - cos of each frame that is there; 1 where they are at right angles, 2 where they are opposite."""
    predicted = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [-9.0, -9.0]]])
    there = torch.tensor([[True, True, True, False]])
    assert float(cosine_sum(predicted, target, there)) == pytest.approx(3)


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


def test_standardise_is_an_option(toy):
    """Without it targets are the embeddings as they are, of their own scale and mean."""
    found = summaries({"x": 6})
    frames = torch.randn(9, 6) * 5 + 3
    combiner = Combiner("sum_heads", {"x": 1.0}, found, standardise=False)
    assert torch.equal(combiner({"x": frames})["x"], frames)


def test_a_dimension_that_never_changes():
    """It says nothing: its target is 0, whatever rounding makes of it."""
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 1, (300, 3))
    rows[:, 1] = 4.0
    summary = {"x": sample_summary([rows])}
    frames = torch.from_numpy(rows.astype(np.float32)) + torch.tensor([0.0, 1e-3, 0.0])
    target = Combiner("sum_heads", {"x": 1.0}, summary)({"x": frames})["x"]
    assert (target[:, 1] == 0).all() and target[:, 0].std() > 0.9


def test_axes_have_one_sign():
    """The largest number of an axis is positive, whatever the machine's eigensolver gives."""
    found = summaries({"x": 6, "y": 5})
    for each in Combiner("average", {"x": 0.5, "y": 0.5}, found, size=3).transforms.values():
        scale = torch.from_numpy(deviation(found["x" if len(each.mean) == 6 else "y"]["covariance"]))
        axes = each.matrix * scale[:, None]
        assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_codes():
    """Cross-entropy of each codebook: small where the logits say the code, log K where they say nothing."""
    codes = torch.tensor([[[3, 200], [0, 255]]])
    there = torch.tensor([[True, False]])
    assert float(codes_sum(torch.zeros(1, 2, 512), codes, there)) == pytest.approx(np.log(256), rel=1e-5)
    sure = torch.zeros(1, 2, 512)
    sure[0, 0, 3] = sure[0, 0, 256 + 200] = 100.0
    assert float(codes_sum(sure, codes, there)) < 1e-6


def test_average_and_concat():
    """Both are fixed maps, of unit variance, of the axes with most of it, whatever the teachers' scales."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(0, 1, (4000, 3))
    data = {
        "small": hidden @ draw.normal(0, 1, (3, 6)),
        "large": 1000 * hidden @ draw.normal(0, 1, (3, 9)) + 500,
    }
    found = {name: sample_summary([rows]) for name, rows in data.items()}
    frames = {name: torch.from_numpy(rows.astype(np.float32)) for name, rows in data.items()}
    average = Combiner("average", {"small": 0.5, "large": 0.5}, found, size=3)
    target = average(frames)["all"]
    assert target.shape == (4000, 3) and average.sizes == {"all": 3}
    parts = [average.transforms[name](rows) for name, rows in frames.items()]
    torch.testing.assert_close(target, (parts[0] + parts[1]) / 2)
    uneven = Combiner("average", {"small": 0.25, "large": 0.75}, found, size=3)
    torch.testing.assert_close(uneven(frames)["all"], 0.25 * parts[0] + 0.75 * parts[1])
    for part in parts:
        assert float(part.var(0).mean()) == pytest.approx(1, rel=0.01)
        covariance = torch.cov(part.T)
        assert (covariance - covariance.diag().diag()).abs().max() < 0.05  # principal axes
    concat = Combiner("concat", {"small": 0.5, "large": 0.5}, found)(frames)["all"]
    assert concat.shape == (4000, 15)
    torch.testing.assert_close(concat.var(0), torch.ones(15), rtol=0.01, atol=0.01)
    for each in (target, concat):
        assert each.mean(0).abs().max() < 0.01
    with pytest.raises(UserError, match="size 7"):
        Combiner("average", {"small": 0.5, "large": 0.5}, found, size=7)


def test_random_teacher():
    """Y13: as often as its weight says; the same for the same seed, pass and utterance."""
    combiner = Combiner("random", {"a": 0.2, "b": 0.7, "c": 0.1}, summaries({"a": 4, "b": 4, "c": 4}), seed=1)
    drawn = [combiner.chosen(1, f"u{n}")[0] for n in range(4000)]
    for name, weight in combiner.weights.items():
        assert abs(drawn.count(name) / 4000 - weight) < 4 * (weight * (1 - weight) / 4000) ** 0.5
    assert drawn == [combiner.chosen(1, f"u{n}")[0] for n in range(4000)]
    assert drawn != [combiner.chosen(2, f"u{n}")[0] for n in range(4000)]
    other = Combiner("random", combiner.weights, summaries({"a": 4, "b": 4, "c": 4}), seed=2)
    assert drawn != [other.chosen(1, f"u{n}")[0] for n in range(4000)]
    frames = torch.randn(7, 4)  # of one size: nothing is mixed
    alone = Combiner("sum_heads", {"a": 1.0}, summaries({"a": 4}))({"a": frames})["a"]
    assert torch.equal(combiner({"a": frames})["all"], alone)


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


def test_collapse_stops_the_run():
    """Targets whose variance falls end the training; those that stay do not, also after a resume."""
    watch, world = VarianceWatch(2, 0.1, {"x": 4}), World()
    there = torch.ones(1, 50, dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)

    def steps(watch, scale, first):
        for step in (first, first + 1):
            watch.see("x", scale * torch.randn(1, 50, 4, generator=draw), there)
            found = watch.check(step, world)
        return found["x"]

    assert steps(watch, 1.0, 0) == pytest.approx(1, rel=0.3)
    steps(watch, 0.5, 2)
    resumed = VarianceWatch(2, 0.1, {"x": 4})
    resumed.load_state(watch.state())
    with pytest.raises(UserError, match="variance of target x .* embeddings have collapsed"):
        steps(resumed, 0.2, 4)
    for scale in (0.0, float("nan")):
        with pytest.raises(UserError, match="collapsed"):
            steps(VarianceWatch(2, 0.1, {"x": 4}), scale, 0)


def test_collapse_in_a_training(toy, monkeypatch):
    """A store whose frames become all alike ends the training; no model is left as finished."""
    original, read = StoredTargets.read, []

    def shrinking(self, data_dir, passes, utterance):
        read.append(utterance)
        found = original(self, data_dir, passes, utterance)
        return {n: v * (0 if len(read) > 40 and n == "target_two" else 1) for n, v in found.items()}

    monkeypatch.setattr(StoredTargets, "read", shrinking)
    words = [f"--targets_dir={toy.dump()}"]
    command = toy.command("fall", *words, distillation_conf=BOTH | {"variance_steps": 4}, max_epoch=12)
    with pytest.raises(UserError, match="variance of target two is 0, it was"):
        EncoderTask.main(cmd=command)
    assert not (toy.folder / "fall" / "train_summary.json").exists()


def test_codes_that_collapse(toy, monkeypatch):
    """Codes are watched as frames are; a validation is not counted."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    targets = toy.dump("rvq2", one=toy.teachers["one"])
    conf = {"teachers": {"one": 1}, "loss": "codes", "variance_steps": 1}
    method, streams, _ = build(toy, targets, conf)
    micro = micro_of(method, streams)
    method.train(False)
    method.validate(micro)
    assert float(method.watch.sums["one"].abs().sum()) == 0
    method.train()
    method.part(micro)
    assert method.after_step(Position(1, 0, 0))["variance_one"][0] > 1
    micro.batch.tensors["target_one"].fill_(3)
    method.part(micro)
    with pytest.raises(UserError, match="variance of target one is 0"):
        method.after_step(Position(1, 1, 1))


def test_heads_do_not_depend_on_each_other():
    alone, both = Heads(8, {"x": 4}, 3), Heads(8, {"y": 5, "x": 4}, 3)
    assert torch.equal(alone["x"].weight, both["x"].weight)
    alike = Heads(8, {"x": 4, "z": 4}, 3)
    assert not torch.equal(alike["x"].weight, alike["z"].weight)
    assert not torch.equal(alone["x"].weight, Heads(8, {"x": 4}, 4)["x"].weight)


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


def train(toy, experiment, *options, **changes):
    """Run a training; returns its history and summary."""
    import csv

    assert EncoderTask.main(cmd=toy.command(experiment, *options, **changes)) == 0
    folder = toy.folder / experiment
    with open(folder / "history.csv") as handle:
        rows = list(csv.DictReader(handle))
    return rows, json.loads((folder / "train_summary.json").read_text())


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


def test_live_teachers_are_the_stored_ones(toy, recogniser):
    """Without a store: the same targets, up to what fp16 and the sample for the statistics leave."""
    from espnet_ext.distillation.teachers import load_teacher

    place = recogniser()
    targets = toy.dump(one=load_teacher(str(place)))
    conf = {"teachers": {"one": 1.0}, "statistics_utterances": 12}
    stored, streams, _ = build(toy, targets, conf)
    expected = stored.targets.batch(micro_of(stored, streams).batch)["one"]
    world = World()
    args = toy.args(EncoderTask, "--live_teacher", f"one={place}", distillation_conf=conf)
    model = EncoderTask.build_model(args)
    live_streams = EncoderTask.build_streams(args, world)
    live = EncoderTask.build_method(args, model, live_streams)
    found = live.targets.batch(micro_of(live, live_streams).batch)["one"]
    assert torch.equal(found.lengths, expected.lengths)
    for row, length in enumerate(found.lengths.tolist()):
        difference = (found.values[row, :length] - expected.values[row, :length]).abs().max()
        assert difference < 0.02 * expected.values[row, :length].abs().max()
    assert live_streams["labelled"].target_frames == streams["labelled"].target_frames


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


def test_a_live_teacher_whose_weights_are_damaged(toy, recogniser):
    """Its embeddings would make every step one that is skipped."""
    place = recogniser()
    state = torch.load(place / "model.pth", weights_only=True)
    state["encoder.after_norm.weight"][0] = float("nan")
    torch.save(state, place / "model.pth")
    args = toy.args(EncoderTask, "--live_teacher", f"x={place}", distillation_conf={"teachers": {"x": 1}})
    with pytest.raises(UserError, match="teacher x: an embedding holds nan or infinity"):
        EncoderTask.build_streams(args, World())
    assert not (toy.folder / "args" / "teacher_summaries.npz").exists()


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
