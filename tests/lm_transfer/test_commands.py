"""From stored targets to a trained recogniser by the commands: both tasks, export."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from espnet_ext.asr.task import ASRTask
from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.bin.asr_train import task_of
from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.attention import AttentionTransfer
from espnet_ext.lm_transfer.options import TransferOptions, parse_conf
from espnet_ext.lm_transfer.store import TargetWriter
from espnet_ext.lm_transfer.task import LMTransferTask, LMTransferTransducerTask
from espnet_ext.lm_transfer.transducer import TransducerTransfer
from espnet_ext.registry import load_task
from tests.toy import history


def transfer(cmd: list[str]) -> int:
    """What `asr_train --task lm_transfer` does: the task follows from the model of the configuration."""
    return load_task(task_of("lm_transfer", cmd)).main(cmd=cmd)


@pytest.mark.parametrize("kind", ["attention", "transducer"])
def test_both_tasks_train(toy_training, dump, bert_folder, tmp_path, kind):
    """With a real HuggingFace LM: the distance falls, and what is kept of the best epochs is the
    recogniser alone.
    """
    assert dump(bert_folder) == 0
    targets = f"--lm_targets={tmp_path / 'targets'}"
    options = ["--lm_transfer_conf", "weight=1.0", "--lm_transfer_conf", "stop=0.75", "--max_epoch", "4"]
    assert transfer(toy_training(kind, "exp", targets, *options)) == 0
    rows = history(tmp_path / "exp")
    assert rows[-2]["train_lm_distance"] < rows[0]["train_lm_distance"]
    assert [row["train_lm_weight"] for row in rows] == [1.0, 1.0, 1.0, 0.0]
    assert {"valid_lm_r2", "train_lm_weight", "valid_loss"} <= set(rows[0])
    control = ASRTask if kind == "attention" else TransducerTask
    assert control.main(cmd=toy_training(kind, "control", "--max_epoch", "1")) == 0
    ours = torch.load(next((tmp_path / "exp").glob("*epoch.pth")))
    theirs = torch.load(next((tmp_path / "control").glob("*epoch.pth")))
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}  # K2
    checkpoint = torch.load(tmp_path / "exp" / "checkpoint.pth")
    assert set(checkpoint["modules"]) == {"model", "head"}


@pytest.mark.parametrize("kind", ["attention", "transducer"])
def test_exported_model_is_plain(toy_training, dump, bert_folder, tmp_path, kind):
    """K2: the export has the control's parameters and no head; stock ESPnet builds it, and it computes the
    same.
    """
    from espnet_ext.train.export import export

    dump(bert_folder)
    transfer(toy_training(kind, "exp", f"--lm_targets={tmp_path / 'targets'}"))
    epochs = export(tmp_path / "exp", tmp_path / "exported", 1)
    trained = torch.load(tmp_path / "exp" / f"{epochs[0]}epoch.pth")
    exported = torch.load(tmp_path / "exported" / "model.pth")
    assert all(torch.equal(exported[name], value) for name, value in trained.items())
    assert exported.keys() == trained.keys()
    assert "lm_t" not in (tmp_path / "exported" / "config.yaml").read_text()


def test_a_training_that_was_cut_short_goes_on_to_the_same_end(toy_training, dump, bert_folder, tmp_path):
    dump(bert_folder)
    targets = f"--lm_targets={tmp_path / 'targets'}"
    options = [targets, "--lm_transfer_conf", "warmup=5", "--checkpoint_steps", "1"]
    transfer(toy_training("transducer", "whole", *options))
    states = [torch.load(tmp_path / "whole" / "checkpoint.pth")["modules"]]

    from espnet_ext.train import trainer

    step = trainer.Trainer._step
    calls = iter(range(100))

    class Killed(Exception):
        pass

    def dying(self):
        if next(calls) == 5:
            raise Killed
        step(self)

    trainer.Trainer._step = dying
    try:
        with pytest.raises(Killed):
            transfer(toy_training("transducer", "cut", *options))
    finally:
        trainer.Trainer._step = step
    transfer(toy_training("transducer", "cut", *options))
    states.append(torch.load(tmp_path / "cut" / "checkpoint.pth")["modules"])
    for module in ("model", "head"):
        for name, value in states[0][module].items():
            assert torch.equal(states[1][module][name], value), name


def test_targets_that_changed_since_the_training_began(toy_training, dump, bert_folder, tmp_path):
    """Going on would be with other targets, or with a head of another size."""
    dump(bert_folder)
    options = [f"--lm_targets={tmp_path / 'targets'}", "--checkpoint_steps", "1", "--resume", "true"]
    transfer(toy_training("attention", "exp", *options, "--max_epoch", "1"))
    dump(bert_folder, "--layers=sum")
    with pytest.raises(UserError, match="embeddings are others than those that this training began with"):
        transfer(toy_training("attention", "exp", *options))
    with pytest.raises(UserError, match=r"the checkpoint's head do not fit .* 0\.weight \("):
        transfer(toy_training("attention", "exp", *options, "--lm_transfer_conf", "head=mlp"))
    dump(bert_folder)
    assert transfer(toy_training("attention", "exp", *options)) == 0


@pytest.mark.parametrize("kind", ["attention", "transducer"])
@pytest.mark.parametrize(
    "options, message",
    [
        ([], "--lm_targets: name the folder"),
        (["--lm_targets=nowhere"], "nowhere: holds no embeddings .*run stage 7"),
        (
            ["--lm_targets=T", "--lm_transfer_conf", "wait=1"],
            "lm_transfer_conf: unknown wait; there are weight",
        ),
        (["--lm_targets=T", "--lm_transfer_conf", "distance=l3"], "distance l3: expected mse, l1, cosine"),
        (["--lm_targets=T", "--lm_transfer_conf", "weight=-1"], "weight -1: expected 0 or more"),
        (["--lm_targets=T", "--lm_transfer_conf", "weight=a"], "weight 'a': expected a number"),
        (["--lm_targets=T", "--lm_transfer_conf", "shift=99"], "shift 99: no transcript has so many labels"),
    ],
)
def test_wrong_options(toy_training, dump, bert_folder, tmp_path, kind, options, message):
    if "--lm_targets=T" in options:
        dump(bert_folder)
    options = [o.replace("=T", f"={tmp_path / 'targets'}") for o in options]
    with pytest.raises(UserError, match=message):
        transfer(toy_training(kind, "exp", *options))
    assert not list(tmp_path.glob("exp/*epoch.pth"))


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"weight": float("nan")}, "weight nan: expected 0 or more"),
        ({"weight": float("inf")}, "weight inf: expected 0 or more, and finite"),
        ({"weight": True}, "weight True: expected a number"),
        ({"weight": "1e-3"}, "weight '1e-3': expected a number, as 0.001"),
        ({"shift": 1.5}, "shift 1.5: expected a whole number"),
        ({"warmup": -1}, "warmup -1: expected 0 or more"),
        ({"stop": 2}, "stop 2: expected a part of the training, from 0 to 1"),
        ({"standardise": 1}, "standardise 1: expected true or false"),
        ({"targets": "foo"}, "targets foo: expected contextual, static, random"),
        ({"head": ["linear"]}, "head .'linear'.: expected linear, mlp"),
        ({"form": "lattice"}, "form lattice: expected surrogate, exact, best_path, predictor"),
        ({"floor": 1.0}, "floor 1.0: expected a number from 0 to below 1"),
        ({"wait": 1}, "unknown wait; there are weight"),
        (None, "expected options as `name: value`, got None"),
    ],
)
def test_nonsense_in_the_configuration(conf, message):
    with pytest.raises(UserError, match=f"lm_transfer_conf: {message}"):
        parse_conf(conf)


@pytest.mark.parametrize("option", ["form=exact", "floor=0.1"])
def test_options_of_lattices_mean_nothing_to_an_attention_decoder(toy_training, option):
    """Told from the options alone: by `run.sh`, before stage 1."""
    with pytest.raises(UserError, match="of transducers alone, and this model has an attention decoder"):
        LMTransferTask.check_early(toy_training("attention", "exp", "--lm_transfer_conf", option))
    LMTransferTransducerTask.check_early(toy_training("transducer", "exp", "--lm_transfer_conf", option))
    for kind, task in (("attention", LMTransferTask), ("transducer", LMTransferTransducerTask)):
        with pytest.raises(UserError, match="unknown wait"):
            task.check_early(toy_training(kind, "exp", "--lm_transfer_conf", "wait=1"))


def test_embeddings_of_something_else(toy_training, tmp_path):
    """Distillation's stores have settings of the same form."""
    TargetWriter(tmp_path / "speech", {"size": 3, "storage": "fp16"}).close()
    with pytest.raises(UserError, match="speech: holds no embeddings of a language model"):
        transfer(toy_training("attention", "exp", f"--lm_targets={tmp_path / 'speech'}"))


@pytest.mark.parametrize("kind", ["attention", "transducer"])
def test_weight_zero_by_the_command_is_the_control(toy_training, dump, bert_folder, tmp_path, kind):
    """K1 of the whole training: data, schedules, best epochs, and what is written."""
    dump(bert_folder)
    targets = f"--lm_targets={tmp_path / 'targets'}"
    assert transfer(toy_training(kind, "exp", targets, "--lm_transfer_conf", "weight=0.0")) == 0
    control = ASRTask if kind == "attention" else TransducerTask
    assert control.main(cmd=toy_training(kind, "control")) == 0
    for epoch in (1, 2):
        ours, theirs = (torch.load(tmp_path / n / f"{epoch}epoch.pth") for n in ("exp", "control"))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    ours, theirs = history(tmp_path / "exp"), history(tmp_path / "control")
    for one, other in zip(ours, theirs, strict=True):
        # Rates and norms are named by updater where there are two.
        same = {n: v for n, v in other.items() if n not in ("seconds", "lr", "train_grad_norm")}
        assert {n: one[n] for n in same} == same and one["lr_model"] == other["lr"]


@pytest.mark.parametrize(
    "kind, method", [("attention", AttentionTransfer), ("transducer", TransducerTransfer)]
)
def test_options_reach_the_method(toy_training, dump, bert_folder, tmp_path, monkeypatch, kind, method):
    """Each option of the YAML, the number of steps, and the control's own normalisation."""
    dump(bert_folder)
    targets = f"--lm_targets={tmp_path / 'targets'}"
    found = []
    monkeypatch.setattr(
        f"espnet_ext.lm_transfer.task.{method.__name__}", lambda *a: found.append(a) or method(*a)
    )
    conf = ["head=mlp", "standardise=false", "targets=random", "shift=1", "distance=l1", "weight=0.5"]
    words = [word for each in conf for word in ("--lm_transfer_conf", each)]
    for options in ([], [*words, "--loss_norm", "token", "--max_epoch", "5"]):
        transfer(toy_training(kind, "exp", targets, "--dry_run", "true", *options))
    plain, other = (method(*each) for each in found)
    assert (plain.targets.kind, plain.targets.shift, plain.loss_norm) == ("contextual", 0, "utterance")
    assert (other.targets.kind, other.targets.shift, other.loss_norm) == ("random", 1, "token")
    assert len(plain.head) == 1 and len(other.head) == 3 and other.steps == 2.5 * plain.steps > 5
    assert (other.targets._scale == 1).all() and (plain.targets._scale != 1).all()
    assert (
        other.options.distance == "l1" and other.options.weight == 0.5 and plain.options == TransferOptions()
    )
    assert plain.updaters["head"].grad_clip == plain.updaters["model"].grad_clip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "transducer"])
def test_two_processes(toy_training, dump, bert_folder, tmp_path, repo_root, kind):
    """2 processes × 1 micro-batch equal 1 × 2 but for the order of sums; both have a part in the figures."""
    dump(bert_folder)
    task = {"attention": "LMTransferTask", "transducer": "LMTransferTransducerTask"}[kind]
    options = [f"--lm_targets={tmp_path / 'targets'}", "--frames_per_micro_batch", "150", "--resume", "true"]
    options += ["--optim", "sgd", "--optim_conf", "lr=0.02", "--lm_transfer_conf", "weight=1.0"]
    for processes in (1, 2):
        plan = {
            "task": f"espnet_ext.lm_transfer.task:{task}",
            "processes": processes,
            "harms": [],
            "path": [],
        }
        plan["cmd"] = toy_training(kind, f"exp{processes}", *options)
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, repo_root / "tests/train/survive.py", tmp_path / "plan.json"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, env=environment)
        assert json.loads(done.stdout.splitlines()[-1])["statuses"] == [[0] * processes]
    one, two = (torch.load(tmp_path / f"exp{n}" / "checkpoint.pth")["modules"] for n in (1, 2))
    for module in ("model", "head"):
        for name, value in one[module].items():
            torch.testing.assert_close(two[module][name], value, rtol=1e-3, atol=1e-5, msg=f"{module}.{name}")
    for first, second in zip(history(tmp_path / "exp1"), history(tmp_path / "exp2"), strict=True):
        for name in ("train_lm_distance", "train_lm_r2", "valid_lm_distance", "train_lm_weight"):
            assert first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-5), name


def test_stale_targets(toy_training, dump, bert_folder, tmp_path):
    """Transcripts or tokens that have changed since the targets were made stop the training before it
    starts.
    """
    dump(bert_folder)
    options = f"--lm_targets={tmp_path / 'targets'}"
    text = tmp_path / "corpus" / "text"
    whole = text.read_text()
    text.write_text(whole.replace("utt03 ", "utt03 a"))
    with pytest.raises(UserError, match="no targets of 1 of 12 utterances, the first is 'utt03'"):
        transfer(toy_training("attention", "exp", options))
    text.write_text(whole)
    tokens = (tmp_path / "tokens.txt").read_text()
    # The validation set's too.
    for folder in ("corpus", "stats"):
        shutil.copytree(tmp_path / folder, tmp_path / f"valid_{folder}")
        for file in (tmp_path / f"valid_{folder}").iterdir():
            file.write_text(
                file.read_text()
                .replace("utt", "val")
                .replace("val03 ", "val03 a" if file.name == "text" else "val03 ")
            )
    valid = [f"--valid_data_dir={tmp_path / 'valid_corpus'}", f"--valid_stats_dir={tmp_path / 'valid_stats'}"]
    with pytest.raises(
        UserError, match="no targets of 1 of 12 utterances, the first is 'val03' in .*valid_corpus"
    ):
        transfer([*toy_training("attention", "exp", options), *valid])
    (tmp_path / "tokens.txt").write_text(tokens.replace("<sos/eos>", "f\n<sos/eos>"))
    with pytest.raises(UserError, match="of another token list or SentencePiece model"):
        transfer(toy_training("attention", "exp", options))


def test_a_decoder_without_states_is_refused(toy_training, dump, bert_folder, tmp_path):
    dump(bert_folder)
    options = [f"--lm_targets={tmp_path / 'targets'}", "--model_conf", "ctc_weight=1.0"]
    with pytest.raises(
        UserError, match="states of a Transformer decoder, and the model has no attention branch"
    ):
        transfer(toy_training("attention", "exp", *options))


def test_summary_counts_the_recogniser_alone(toy_training, dump, bert_folder, tmp_path):
    """Parameters of the head are no part of the model's size."""
    dump(bert_folder)
    transfer(toy_training("attention", "exp", f"--lm_targets={tmp_path / 'targets'}"))
    ASRTask.main(cmd=toy_training("attention", "control"))
    ours, theirs = (
        json.loads((tmp_path / name / "train_summary.json").read_text()) for name in ("exp", "control")
    )
    assert ours["parameters"] == theirs["parameters"] and ours["steps"] == theirs["steps"]
