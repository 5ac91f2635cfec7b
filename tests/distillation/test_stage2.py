"""Stage 2: what it takes over, how long the encoder waits, weight zero, and the export."""

import copy
import dataclasses
import hashlib
import json
import signal

import pytest
import torch

from espnet_ext.asr.transducer_method import TransducerMethod
from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.distillation.method import DistillationMethod
from espnet_ext.distillation.options import student_options
from espnet_ext.distillation.task import DistillationTask
from espnet_ext.errors import UserError
from espnet_ext.train.method import MicroBatch, Position
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.world import World
from tests.distillation.conftest import TOKENS, TRAINING, build_transducer, transducer_config, write_exported


@pytest.fixture
def stage1(toy):
    """A finished stage 1."""
    conf = {"teachers": {"one": 1, "two": 1}}
    words = [f"--targets_dir={toy.dump(storage='int8')}"]
    assert EncoderTask.main(cmd=toy.command("encoder", *words, distillation_conf=conf)) == 0
    return toy.folder / "encoder"


@pytest.fixture
def path_teacher(tmp_path):
    return write_exported(
        tmp_path / "teacher",
        build_transducer(7, exact=False, size=24),
        transducer_config(size=24) | {"token_type": "char"},
    )


def build(toy, *options, task=DistillationTask, **changes):
    args = toy.args(task, *options, **changes)
    torch.manual_seed(5)
    model = task.build_model(args)
    task._initialise(args, model)
    streams = task.build_streams(args, World())
    return task.build_method(args, model, streams), streams


def run(method, streams, steps):
    """Steps of the training loop."""
    runner = StepRunner(method, streams, World(), 1)
    method.train()
    for number in range(steps):
        position = Position(1, number, number)
        data = {"labelled": streams["labelled"].next()}
        for turn in method.turns(position):
            assert runner.run(turn, data, {}, position).finite
        method.after_step(position)


def digest(module):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


@pytest.mark.parametrize("nbest", [1, 2])
def test_takes_over_the_encoder_and_nothing_else(toy, stage1, capsys, nbest):
    """Y5: encoder from the best epochs' average, everything else as a fresh model of the same seed."""
    from espnet_ext.train.averaging import average

    epochs = json.loads((stage1 / "nbest.json").read_text())["epochs"][:nbest]
    trained = average([stage1 / f"{epoch}epoch.pth" for epoch in epochs])
    method, _ = build(toy, f"--stage1={stage1}", f"--stage1_nbest={nbest}")
    fresh, _ = build(toy)
    state, untouched = method.model.state_dict(), fresh.model.state_dict()
    assert state.keys() == untouched.keys()
    for name, value in state.items():
        source = trained if name.startswith("encoder.") else untouched
        assert torch.equal(value, source[name]), name
    assert any(
        not torch.equal(value, untouched[name])
        for name, value in state.items()
        if name.startswith("encoder.")
    )
    said = capsys.readouterr().out
    assert "tensors of the encoder taken over; as initialised: ctc_lin, decoder, joint_network" in said


def test_stage1_goes_on_elsewhere_with_its_projections(toy, stage1):
    """Y5: encoder and projections; teachers that do not match are named."""
    from espnet_ext.distillation.losses import Heads
    from espnet_ext.distillation.stage1 import take_over

    heads = Heads(16, {"one": 6, "two": 10}, seed=9)
    args = toy.args(EncoderTask)
    model = EncoderTask.build_model(args)
    found = take_over(model, stage1, vars(args), 1, heads)
    epoch = json.loads((stage1 / "nbest.json").read_text())["epochs"][0]
    expected = torch.load(stage1 / "head" / f"{epoch}epoch.pth", weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in heads.state_dict().items())
    assert {n.split(".")[0] for n in found.loaded} == {"encoder", "head"}
    assert not any(n.startswith("encoder") for n in found.fresh)
    with pytest.raises(UserError, match="not in the model .two.bias"):
        take_over(model, stage1, vars(args), 1, Heads(16, {"one": 6}))


def test_another_student_is_refused(toy, stage1):
    for changes, what in (
        ({"frontend_conf": TRAINING["frontend_conf"] | {"n_mels": 24}}, "frontend_conf"),
        ({"encoder_conf": transducer_config(size=24)["encoder_conf"]}, "encoder_conf"),
        ({"normalize": "utterance_mvn"}, "normalize"),
    ):
        with pytest.raises(UserError, match=f"stage 1 had another {what} than this training"):
            build(toy, f"--stage1={stage1}", **changes)
    (stage1 / "train_summary.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        build(toy, f"--stage1={stage1}")


def flat(method):
    """All tensors of model and optimiser."""
    found = {f"model.{n}": v for n, v in method.model.state_dict().items()}
    for number, own in method.updaters["model"].optimizer.state_dict()["state"].items():
        found |= {f"optimiser.{number}.{n}": v for n, v in own.items()}
    return found


def test_weight_zero_is_plain_training(toy, path_teacher, monkeypatch):
    """Y4: equal to the bit after 20 steps, while the teacher's branch runs, forward and backward."""
    calls = []
    original = DistillationMethod.path_loss

    def counted(self, *args):
        divergence, count = original(self, *args)
        divergence.register_hook(lambda gradient: calls.append(gradient.clone()))
        return divergence, count

    monkeypatch.setattr(DistillationMethod, "path_loss", counted)
    ours = build(toy, f"--path_teacher={path_teacher}", distillation_conf={"path_weight": 0.0})
    control = build(toy, task=TransducerTask)
    run(*ours, 20)
    run(*control, 20)
    left, right = flat(ours[0]), flat(control[0])
    assert left.keys() == right.keys() and len(left) > 50
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert len(calls) == 20
    with_weight = build(toy, f"--path_teacher={path_teacher}", distillation_conf={"path_weight": 0.3})
    run(*with_weight, 3)
    assert any(not torch.equal(v, right[n]) for n, v in flat(with_weight[0]).items() if "model" in n)


def test_gradient_at_a_small_weight(toy, path_teacher):
    """At weight 1e-3 the gradient differs from the control's by 1e-3 times the branch's own."""
    found = {}
    for weight in (0.0, 1e-3, 1.0):
        method, streams = build(
            toy, f"--path_teacher={path_teacher}", distillation_conf={"path_weight": weight}
        )
        method.train()
        step = streams["labelled"].next()
        number, batch = step.batches[0]
        micro = MicroBatch(batch, step.totals, streams["labelled"].augment_keys(batch, 1), (0, number), (1,))
        micro.seed("model")
        method.transducer_part(micro).loss.backward()
        found[weight] = {n: p.grad.double() for n, p in method.model.named_parameters() if p.grad is not None}
    moved = 0
    for name, control in found[0.0].items():
        own = found[1.0][name] - control
        difference = found[1e-3][name] - control
        # Gradients are sums of fp32 numbers as large as the control's.
        assert (difference - 1e-3 * own).abs().max() <= 3e-6 * max(1.0, float(control.abs().max()))
        moved += float(own.abs().max()) > 3e-2
    assert moved > 20


@pytest.mark.parametrize("updates", [0, 3])
def test_encoder_waits_for_exactly_so_many_updates(toy, updates):
    """Y12: its parameters are constant for N updates, everything else moves; then they move too."""
    method, streams = build(toy, distillation_conf={"freeze_updates": updates})
    before = digest(method.model.encoder)
    for step in range(updates + 2):
        rest = digest(method.model.joint_network), digest(method.model.ctc_lin)
        run(method, streams, 1)
        assert (digest(method.model.encoder) == before) == (step < updates), step
        assert digest(method.model.joint_network) != rest[0] and digest(method.model.ctc_lin) != rest[1]
    assert method.updates == updates + 2


def test_running_statistics_wait_too(toy):
    """Y12: so does what BatchNorm keeps; when the encoder learns again, BatchNorm does."""
    encoder = copy.deepcopy(TRAINING["encoder_conf"])
    encoder["body_conf"][0] |= {"block_type": "conformer"}
    del encoder["body_conf"][0]["depth_conv_kernel_size"]
    method, streams = build(toy, distillation_conf={"freeze_updates": 2}, encoder_conf=encoder)
    before = digest(method.model.encoder)
    assert any("running_mean" in name for name in method.model.encoder.state_dict())
    run(method, streams, 2)
    assert digest(method.model.encoder) == before
    assert all(module.training for module in method.model.encoder.modules())  # only while it waited
    statistics = [b.clone() for n, b in method.model.encoder.named_buffers() if "running" in n]
    run(method, streams, 1)
    after = [b for n, b in method.model.encoder.named_buffers() if "running" in n]
    assert not any(torch.equal(a, b) for a, b in zip(statistics, after, strict=True))


def path_micro(toy, path_teacher, **conf):
    """Method with a teacher, and one of several micro-batches of its first step."""
    words = [f"--path_teacher={path_teacher}", "--frames_per_micro_batch=120"]
    method, streams = build(toy, *words, distillation_conf=conf)
    method.train(False)
    step = streams["labelled"].next()
    assert len(step.batches) > 1
    number, batch = step.batches[0]
    return method, MicroBatch(batch, step.totals, None, (0, number), (1,))


@pytest.mark.parametrize(
    "conf",
    [{}, {"temperature": 2.0}, {"shift": 2}, {"path": "best"}, {"path_norm": "node"}],
    ids=str,
)
def test_options_of_the_path(toy, path_teacher, conf):
    """Each option reaches the loss: a sum over the micro-batch, divided by the utterances of the step."""
    from espnet_ext.distillation import path

    method, micro = path_micro(toy, path_teacher, path_weight=0.5, **conf)
    student, teacher = method.model, method.teacher
    with torch.no_grad():
        ours, theirs = (m.outputs(**method._speech(micro.batch)) for m in (student, teacher))
        emissions = (
            path.best_emissions(teacher, theirs)
            if conf.get("path") == "best"
            else path.greedy_emissions(teacher.joint_network, theirs)
        )
        nodes = path.path_nodes(emissions, theirs.encoder_out_lens, theirs.target_lens.long())
        own = path.shifted(nodes, conf.get("shift", 0), ours.encoder_out_lens)
        scores = [
            path.node_scores(m.joint_network, o.encoder_out, o.predictor_out, n)
            for m, o, n in ((student, ours, own), (teacher, theirs, nodes))
        ]
        per_node = conf.get("path_norm") == "node"
        expected = path.path_divergence(*scores, own.there, conf.get("temperature", 1.0), per_node)
        found, _ = method.path_loss(micro.batch, ours)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    plain = TransducerMethod.transducer_part(method, _without_clean(micro)).loss
    torch.testing.assert_close(
        method.transducer_part(micro).loss - plain,
        0.5 * expected.sum() / micro.totals.utterances,
        rtol=1e-3,
        atol=1e-3,
    )


def _without_clean(micro):
    tensors = DistillationMethod._speech(micro.batch)
    return dataclasses.replace(micro, batch=dataclasses.replace(micro.batch, tensors=tensors))


def test_path_teacher_hears_clean_audio(toy, path_teacher):
    """The noise of the student is not the teacher's, who stays in evaluation mode and gets no gradient."""
    method, micro = path_micro(toy, path_teacher, path_weight=1.0)
    method.train()
    assert not method.teacher.training and not any(p.requires_grad for p in method.teacher.parameters())
    again = DistillationMethod(
        method.model, method.updaters["model"], method.options, teacher=build_transducer(7).train()
    )
    assert not again.teacher.training
    with torch.no_grad():
        output = method.model.outputs(**method._speech(micro.batch))
        before, _ = method.path_loss(micro.batch, output)
        micro.batch.tensors["speech"] += torch.randn_like(micro.batch.tensors["speech"])
        assert torch.equal(method.path_loss(micro.batch, output)[0], before)
        micro.batch.tensors["clean"] += torch.randn_like(micro.batch.tensors["clean"])
        assert not torch.equal(method.path_loss(micro.batch, output)[0], before)
        micro.batch.tensors["clean_lengths"] -= 4000
        with pytest.raises(UserError, match="frames, teacher --path_teacher has"):
            method.path_loss(micro.batch, output)


def test_skipped_steps_are_no_updates(toy):
    method, streams = build(toy, distillation_conf={"freeze_updates": 2})
    runner = StepRunner(method, streams, World(), 1)
    method.train()
    step = streams["labelled"].next()
    step.batches[0][1].tensors["speech"][0, 0] = float("nan")
    turn = method.turns(Position(1, 0, 0))[0]
    assert not runner.run(turn, {"labelled": step}, {}, Position(1, 0, 0)).finite
    assert method.updates == 0
    run(method, streams, 1)
    assert method.updates == 1


def train(toy, experiment, *options, stop_at=None, monkeypatch=None, **changes):
    """Train; with stop_at a signal comes after that step, and the exit status says so."""
    command = toy.command(experiment, *options, **changes)
    if stop_at is None:
        return DistillationTask.main(cmd=command)
    original = DistillationMethod.after_step

    def stopping(self, position):
        if position.step + 1 == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return original(self, position)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationMethod, "after_step", stopping)
        return DistillationTask.main(cmd=command)


def test_resume_equals_uninterrupted(toy, path_teacher, monkeypatch, capsys):
    """Y12: stopped within the freeze and after it, the count goes on; all parameters to the bit."""
    words = [f"--path_teacher={path_teacher}"]
    conf = {"distillation_conf": {"freeze_updates": 5, "path_weight": 0.5}, "max_epoch": 2}
    assert train(toy, "whole", *words, **conf) == 0
    words += ["--resume=true"]
    for stop in (2, 7):
        assert train(toy, "parts", *words, stop_at=stop, monkeypatch=monkeypatch, **conf) == 75
    assert "resumed at epoch 1, step 2" in capsys.readouterr().out
    assert train(toy, "parts", *words, **conf) == 0
    assert "resumed at epoch 2, step 7" in capsys.readouterr().out
    states = [torch.load(toy.folder / name / "2epoch.pth", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    summary = json.loads((toy.folder / "parts" / "train_summary.json").read_text())
    assert summary["frozen_updates"] == 5


def test_stage1_resumes_to_the_bit(toy, monkeypatch, capsys):
    """Stage 1 too: stopped within an epoch, with a random teacher and the watch on variances."""
    from espnet_ext.distillation.encoder_method import EncoderMethod

    words = [f"--targets_dir={toy.dump()}"]
    conf = {
        "teachers": {"one": 1, "two": 1},
        "rule": "random",
        "size": 4,
        "variance_steps": 3,
    }
    assert EncoderTask.main(cmd=toy.command("whole", *words, distillation_conf=conf)) == 0
    original = EncoderMethod.after_step

    def stopping(self, position):
        if position.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(self, position)

    words += ["--resume=true"]
    with monkeypatch.context() as patch:
        patch.setattr(EncoderMethod, "after_step", stopping)
        assert EncoderTask.main(cmd=toy.command("parts", *words, distillation_conf=conf)) == 75
    assert EncoderTask.main(cmd=toy.command("parts", *words, distillation_conf=conf)) == 0
    assert "resumed at epoch 1, step 2" in capsys.readouterr().out
    for file in ("2epoch.pth", "head/2epoch.pth"):
        left, right = (torch.load(toy.folder / name / file, weights_only=True) for name in ("whole", "parts"))
        assert all(torch.equal(left[name], right[name]) for name in left)
    rows = [(toy.folder / name / "history.csv").read_text().splitlines() for name in ("whole", "parts")]
    # Everything but the seconds.
    assert [r.split(",")[3:] for r in rows[0]] == [r.split(",")[3:] for r in rows[1]]


def test_export_is_plain_espnet(toy, stage1):
    """The parameters of a transducer that was never distilled; stock ESPnet loads and decodes it."""
    from espnet2.bin.asr_transducer_inference import Speech2Text

    from espnet_ext.train.export import export

    assert train(toy, "student", f"--stage1={stage1}", distillation_conf={"freeze_updates": 1}) == 0
    assert TransducerTask.main(cmd=toy.command("control")) == 0
    export(toy.folder / "student", toy.folder / "export", 2)
    state, control = (
        torch.load(path, weights_only=True)
        for path in (toy.folder / "export" / "model.pth", toy.folder / "control" / "2epoch.pth")
    )
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in control.items()}
    recogniser = Speech2Text(
        str(toy.folder / "export" / "config.yaml"), str(toy.folder / "export" / "model.pth"), beam_size=2
    )
    hypotheses = recogniser(torch.from_numpy(toy.audio["u00"]))
    assert recogniser.hypotheses_to_results(hypotheses)[0][0] is not None


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"freeze_updates": -1}, "freeze_updates -1: expected 0 or more"),
        ({"freeze_updates": 1.5}, "expected a whole number"),
        ({"temperature": 0}, "temperature 0: expected above 0"),
        ({"temperature": float("inf")}, "temperature inf: expected above 0"),
        ({"path": "viterbi"}, "path viterbi: expected greedy or best"),
        ({"teachers": {}}, "unknown teachers"),
    ],
)
def test_bad_options(conf, message):
    with pytest.raises(UserError, match=message):
        student_options(conf)


def test_bad_path_teacher(toy, tmp_path, recogniser):
    """None at all, no transducer, other tokens, another frame rate: said before training."""
    with pytest.raises(UserError, match="path_weight: needs --path_teacher"):
        train(toy, "x", distillation_conf={"path_weight": 1.0})
    with pytest.raises(UserError, match="is no transducer"):
        build(toy, f"--path_teacher={recogniser()}")
    for name, change, message in (
        ("tokens", {"token_list": [*TOKENS[:-2], "z", TOKENS[-1]]}, "tokens are not this training's"),
        (
            "rate",
            {"frontend_conf": {**transducer_config()["frontend_conf"], "hop_length": 128}},
            "every 512 samples at 16000 Hz, the student every 640",
        ),
    ):
        folder = write_exported(
            tmp_path / name,
            build_transducer(exact=False),
            transducer_config() | {"token_type": "char"} | change,
        )
        with pytest.raises(UserError, match=message):
            build(toy, f"--path_teacher={folder}")
