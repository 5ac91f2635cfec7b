"""The command from its options to a finished experiment: resume, processes, export, bad input."""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.errors import UserError
from espnet_ext.ssl.task import SSLTask
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.trainer import Trainer

#: Starts a training any number of times, with any number of processes.
SURVIVE = Path(__file__).parents[1] / "train" / "survive.py"


def end_of(folder: Path) -> dict:
    state = torch.load(folder / NAME, weights_only=True)
    state["progress"].pop("seconds")
    for row in state["history"]:
        row.pop("seconds")
    return state


@pytest.fixture(scope="module")
def untouched(command, tmp_path_factory) -> Path:
    """A bilevel training of all phases that was left alone."""
    folder = tmp_path_factory.mktemp("untouched") / "exp"
    assert BilevelTask.main(cmd=command("bilevel", folder)) == 0
    return folder


def test_what_a_finished_training_leaves(untouched):
    rows = list(csv.DictReader((untouched / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    # Both losses, γ and the development set's accuracy: the curves of a report.
    assert [row["train_gamma"] != "" for row in rows] == [False, True, True, False]
    assert [row["valid_loss_unsupervised"] != "" for row in rows] == [True, True, True, False]
    assert all(row["valid_acc"] and row["valid_loss_supervised"] == row["valid_loss"] for row in rows)
    assert [row["train_loss_supervised"] != "" for row in rows] == [False, True, True, True]
    assert all(row["train_loss_supervised"] == row["train_loss"] for row in rows)
    for row in rows:
        assert float(row["valid_error"]) == pytest.approx(1 - float(row["valid_acc"]))
    assert float(rows[2]["train_gamma"]) > float(rows[1]["train_gamma"])
    assert float(rows[3]["train_labelled_passes"]) == 3.0
    summary = json.loads((untouched / "train_summary.json").read_text())
    batches = summary["batches"]
    assert summary["labelled_batches"] == batches["labelled"] > 0
    assert summary["unlabelled_batches"] == batches["unlabelled"] > 2 * batches["labelled"]
    kinds = summary["steps_of_each_kind"]
    assert kinds["explore"] == 2 * kinds["joint"] and sum(kinds.values()) == summary["steps"]
    assert summary["encoder_frames"] == sum(summary["frames"].values())
    hours = {name: frames * 160 / 16000 / 3600 for name, frames in summary["frames"].items()}
    for name, expected in hours.items():
        assert summary[f"{name}_hours"] == pytest.approx(expected, abs=1e-4)
    # What is kept of the best epochs is the recogniser alone.
    best = torch.load(sorted(untouched.glob("*epoch.pth"))[0], weights_only=True)
    assert set(best) == set(torch.load(untouched / NAME, weights_only=True)["modules"]["model"])


class Killed(Exception):
    pass


# Steps: 1 to 12 warm start (with 4 labelled batches a pass), then explore, explore, joint and so on, then
# final.
@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [2, 13, 15, 30, 38])
def test_resume_equals_no_interruption(untouched, command, tmp_path, monkeypatch, equal, dies_at):
    """B6 and more: killed in the warm start, before an exploration and a joint step, in the last phase."""
    step, calls = Trainer._step, []

    def dying(self):
        calls.append(self.progress.step)
        if len(calls) == dies_at:
            raise Killed
        return step(self)

    cmd = command("bilevel", tmp_path, "--checkpoint_steps", "1", "--resume", "true")
    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(Killed):
        BilevelTask.main(cmd=cmd)
    monkeypatch.setattr(Trainer, "_step", step)
    assert BilevelTask.main(cmd=cmd) == 0
    mine, theirs = end_of(tmp_path), end_of(untouched)
    for part in mine:
        assert equal(mine[part], theirs[part]), part


#: Sends itself a signal while it computes the fourth exploration step, the second one of its round.
KILLED = """
import os, signal, sys
from espnet_ext.bilevel.method import BilevelMethod
from espnet_ext.bilevel.task import BilevelTask
lower = BilevelMethod.lower_part
def dying(self, micro):
    if self.counts["explore"] == 3:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return lower(self, micro)
BilevelMethod.lower_part = dying
sys.exit(BilevelTask.main(cmd=sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status", "done"), [("SIGKILL", -9, 3), ("SIGUSR1", 75, 4)])
def test_a_signal_in_the_midst_of_an_exploration(untouched, command, tmp_path, equal, name, status, done):
    """kill -9 loses the step under way, SIGUSR1 ends it and saves; both go on there, to the bit."""
    cmd = command("bilevel", tmp_path, "--checkpoint_steps", "1", "--resume", "true")
    assert subprocess.run([sys.executable, "-c", KILLED, name, *cmd]).returncode == status
    counts = torch.load(tmp_path / NAME, weights_only=True)["method"]["counts"]
    assert (counts["explore"], counts["joint"]) == (done, 1)
    assert BilevelTask.main(cmd=cmd) == 0
    mine, theirs = end_of(tmp_path), end_of(untouched)
    for part in mine:
        assert equal(mine[part], theirs[part]), part


def survive(tmp_path: Path, cmd: list[str], processes: int, harms: list[dict]) -> list:
    """Exit statuses of the runs, one more than there are harms."""
    plan = {"task": "espnet_ext.bilevel.task:BilevelTask", "cmd": cmd, "processes": processes}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"harms": harms, "path": []}))
    done = subprocess.run(
        [sys.executable, SURVIVE, tmp_path / "plan.json"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    return json.loads(done.stdout.splitlines()[-1])["statuses"]


@pytest.mark.slow
def test_two_processes(command, tmp_path, equal):
    """2 processes × 1 micro-batch equal 1 × 2; killed and resumed, they equal themselves."""
    options = ["--frames_per_micro_batch", "320", "--optim", "sgd", "--optim2", "sgd", "--optim3", "sgd"]
    options += ["--optim_conf", "lr=0.02", "--optim2_conf", "lr=0.04", "--checkpoint_steps", "1"]
    ends = {}
    for name, processes, harms in (
        ("one", 1, []),
        ("two", 2, []),
        ("killed", 2, [{"how": "kill", "after": "save"}, {"how": "USR1", "after": 0.4}]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        cmd = command("bilevel", folder / "exp", "--resume", "true", *options)
        statuses = survive(folder, cmd, processes, harms)
        assert statuses[-1] == [0] * processes and (name != "killed" or statuses[0] == [-9, -9])
        ends[name] = end_of(folder / "exp")
    for module in ("model", "unsupervised"):
        values, others = (
            torch.cat([v.double().reshape(-1) for v in ends[name]["modules"][module].values()])
            for name in ("one", "two")
        )
        assert (values - others).norm() <= 1e-6 * values.norm(), module
    assert ends["one"]["method"] == ends["two"]["method"]
    for part in ("modules", "updaters", "streams", "method"):
        assert equal(ends["two"][part], ends["killed"][part]), part


def test_micro_batches_change_memory_not_results(command, tmp_path):
    """Without dropout and SpecAugment, a step in pieces is the step at once, masks and all."""
    quiet = ["--specaug", "none"]
    for part in ("encoder", "decoder"):
        quiet += [f"--{part}_conf", "dropout_rate=0.0", f"--{part}_conf", "positional_dropout_rate=0.0"]
    quiet += ["--encoder_conf", "attention_dropout_rate=0.0", "--max_epoch", "2"]
    quiet += ["--optim", "sgd", "--optim2", "sgd", "--bilevel_conf", "warm_epochs=0"]
    quiet += ["--bilevel_conf", "final_epochs=0"]
    states = []
    for budget in ("0", "150"):
        folder = tmp_path / budget
        assert (
            BilevelTask.main(cmd=command("bilevel", folder, *quiet, "--frames_per_micro_batch", budget)) == 0
        )
        states.append(end_of(folder)["modules"])
    for module in ("model", "unsupervised"):
        for name, value in states[0][module].items():
            torch.testing.assert_close(states[1][module][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_pretraining_alone_exports_a_plain_model(command, tmp_path):
    """Stage 6 by itself: criterion, figures, and an export that stock ESPnet reads."""
    from espnet_ext.train.export import export

    assert SSLTask.main(cmd=command("ssl", tmp_path / "exp", "--max_epoch", "3")) == 0
    rows = list(csv.DictReader((tmp_path / "exp" / "history.csv").open()))
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])
    assert rows[0]["valid_loss"] == rows[0]["valid_loss_unsupervised"] and rows[0]["valid_acc"]
    nbest = json.loads((tmp_path / "exp" / "nbest.json").read_text())
    assert nbest["criterion"] == ["valid", "loss", "min"]
    export(tmp_path / "exp", tmp_path / "export", 2)
    exported = torch.load(tmp_path / "export" / "model.pth", weights_only=True)
    assert "ctc.ctc_lo.weight" in exported and not any("head" in name for name in exported)


def test_pretraining_without_an_unlabelled_set_hears_the_training_set(command, tmp_path):
    cmd = [word for word in command("ssl", tmp_path, "--max_epoch", "1") if "unlabelled_" not in word]
    assert SSLTask.main(cmd=cmd) == 0
    assert json.loads((tmp_path / "train_summary.json").read_text())["batches"].keys() == {"unlabelled"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bilevel_conf", "gamma_maximum=-1"], "gamma_maximum: -1"),
        (["--bilevel_conf", "steps=3"], "no option steps"),
        (["--optim2_conf", "lr=-0.1"], "optim2_conf lr: -0.1: the lower level needs a learning rate above 0"),
        (["--optim_conf", "lr=0"], "optim_conf lr: 0: the upper level"),
        (["--optim3_conf", "lr=0.002"], "optim3_conf lr: 0.002: the final fine-tuning needs a smaller rate"),
        (["--loss_norm", "utterance"], "use loss_norm: token, also for the control"),
        (["--bilevel_conf", "final_epochs=9"], "more than max_epoch, 4"),
        (["--unlabelled_data_dir", ""], "no unlabelled speech: .*--unlabelled_set"),
        (["--unlabelled_data_dir", "/nowhere"], "/nowhere/wav.scp: no such file"),
        (["--unlabelled_stats_dir", "/nowhere"], "/nowhere/speech_shape: no such file; run the stage stats"),
        (["--unlabelled_frames_per_step", "-5"], "expected at least 0"),
        (["--bilevel_conf", "gamma_maximum=.nan"], "gamma_maximum: nan"),
        (["--bilevel_conf", "eta_lr=1e-3"], "eta_lr: '1e-3': expected a number"),
        (
            ["--optim2_conf", "lr=1e-3"],
            "lr: 1e-3: the lower level needs .*YAML reads 1e-3 as a word: write 1.0e",
        ),
        (["--optim2_conf", "lr=true"], "optim2_conf lr: True: the lower level"),
        (["--optim2_conf", "lr=.inf"], "optim2_conf lr: inf: the lower level"),
        (["--ssl_conf", "mask_rate=0.9"], "mask_rate: 0.9: expected in"),
        (["--ssl_conf", "span=3"], "bestrq has no option span"),
        (["--pseudo_text", "/nowhere", "--bilevel_conf", "warm_epochs=0"], "/nowhere: no such file"),
        (["--ssl", "hubert"], "--ssl hubert: expected one of bestrq, infonce"),
        (["--freeze_param", "encoder"], "the whole encoder is frozen"),
        (
            ["--freeze_param", "decoder", "ctc", "--bilevel_conf", "phi_lr=0.1"],
            "phi_lr: all but the encoder is frozen",
        ),
        (
            ["--encoder_conf", "{input_layer: linear}", "--padding", "espnet"],
            "EBranchformerEncoder with input layer Sequential: a self-supervised loss cannot mask it",
        ),
    ],
)
def test_bad_input_ends_before_training(command, tmp_path, options, message):
    cmd = command("bilevel", tmp_path / "exp", *options)
    with pytest.raises(UserError, match=message):
        BilevelTask.main(cmd=cmd)
    assert not (tmp_path / "exp" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bilevel_conf": None}, "bilevel_conf: expected options as `warm_epochs: ...`, got None"),
        ({"ssl_conf": None}, "ssl_conf: expected options as `mask_rate: ...`, got None"),
        ({"optim2_conf": None}, "optim2_conf: expected options as `lr: ...`, got None"),
        ({"scheduler3": "warmupdecay", "scheduler3_conf": None}, "scheduler3_conf: expected options as"),
        ({"optim3": "adamv"}, "optim3: adamv: expected one of adam, adamw"),
    ],
)
def test_a_yaml_s_own_mistakes_are_refused(corpus, command, tmp_path, change, message):
    """An empty block of options is null, and no choice is checked: neither ends in a traceback."""
    config = yaml.safe_load((corpus / "bilevel.yaml").read_text()) | change
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config))
    cmd = command("bilevel", tmp_path / "exp", "--dry_run", "true")
    cmd[1] = str(tmp_path / "changed.yaml")
    with pytest.raises(UserError, match=message):
        BilevelTask.main(cmd=cmd)


def test_a_dry_run_checks_everything_and_trains_nothing(command, tmp_path, capsys):
    """What the recipe does before stage 6 takes hours; the errors above are its errors as well."""
    assert BilevelTask.main(cmd=command("bilevel", tmp_path / "exp", "--dry_run", "true")) == 0
    assert "options, data and model fit" in capsys.readouterr().out
    assert not (tmp_path / "exp").exists()
    with pytest.raises(UserError, match="gamma_maximum: -1"):
        BilevelTask.main(
            cmd=command("bilevel", tmp_path, "--dry_run", "true", "--bilevel_conf", "gamma_maximum=-1")
        )


def test_ctc_alone(corpus, command, tmp_path):
    """`ctc_weight: 1.0`: no decoder, so that the validation loss is what there is to choose epochs by."""
    config = yaml.safe_load((corpus / "bilevel.yaml").read_text())
    config |= {"model_conf": {"ctc_weight": 1.0}, "best_model_criterion": [["valid", "loss", "min"]]}
    (corpus / "bilevel_ctc.yaml").write_text(yaml.safe_dump(config | {"max_epoch": 3}))
    assert BilevelTask.main(cmd=command("bilevel_ctc", tmp_path / "exp")) == 0
    rows = list(csv.DictReader((tmp_path / "exp" / "history.csv").open()))
    assert "valid_error" not in rows[0] and all(float(row["valid_loss"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("bilevel", "least_use=0.99", "step 4: bestrq looks collapsed: targets use"),
        ("bilevel", "least_spread=1.0", "step 4: bestrq looks collapsed: encoder outputs all point"),
        ("bilevel_infonce", "least_spread=1.0", "step 4: infonce looks collapsed: targets all point"),
    ],
)
def test_alarms_of_a_training(command, tmp_path, name, limit, message):
    """Limits that nothing can keep: what the training's own steps gathered is looked at, and ends it."""
    words = ["--ssl_conf", limit, "--ssl_conf", "alarm=stop", "--ssl_conf", "alarm_steps=4"]
    with pytest.raises(UserError, match=message):
        BilevelTask.main(cmd=command(name, tmp_path, *words))


def test_another_sample_rate_is_refused(command, corpus, tmp_path):
    samples, _ = soundfile.read(corpus / "unlabelled03.wav")
    soundfile.write(tmp_path / "wrong.wav", samples, 8000)
    lines = (corpus / "dump/unlabelled/wav.scp").read_text().splitlines()
    lines[3] = f"unlabelled03 {tmp_path / 'wrong.wav'}"
    (tmp_path / "wav.scp").write_text("\n".join(lines) + "\n")
    cmd = command("bilevel", tmp_path / "exp", "--unlabelled_data_dir", tmp_path)
    with pytest.raises(
        UserError, match=r"wav.scp:4: utterance 'unlabelled03' has 8000 Hz, the model expects 16000"
    ):
        BilevelTask.main(cmd=cmd)


@pytest.mark.parametrize("what", ["wav.scp", "speech_shape"])
def test_an_empty_unlabelled_set_is_refused(command, corpus, tmp_path, what):
    for folder, file in (("dump", "wav.scp"), ("stats", "speech_shape")):
        (tmp_path / folder).mkdir()
        text = "" if file == what else (corpus / folder / "unlabelled" / file).read_text()
        (tmp_path / folder / file).write_text(text)
    places = ["--unlabelled_data_dir", tmp_path / "dump", "--unlabelled_stats_dir", tmp_path / "stats"]
    with pytest.raises(UserError, match="dump: the unlabelled set is empty; expected lines .* check the set"):
        BilevelTask.main(cmd=command("bilevel", tmp_path / "exp", *places))


@pytest.mark.parametrize(
    ("name", "words", "least"),
    [
        ("bilevel", [], 7),  # what one encoder frame reads
        ("bilevel_infonce", ["--ssl_conf", "context=40", "--ssl_conf", "least_context=40"], 163 + 19),
    ],
)
def test_a_set_of_which_nothing_can_be_predicted_is_refused(command, corpus, tmp_path, name, words, least):
    """Else a training would read it to its end with a loss of zero, and say nothing."""
    samples = 160 * (least - 2)
    soundfile.write(tmp_path / "short.wav", [0.1] * samples, 16000)
    for folder, file, value in (
        ("dump", "wav.scp", tmp_path / "short.wav"),
        ("stats", "speech_shape", samples),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(f"short {value}\n")
    places = ["--unlabelled_data_dir", tmp_path / "dump", "--unlabelled_stats_dir", tmp_path / "stats"]
    cmd = command(name, tmp_path / "exp", "--dry_run", "true", *places, *words)
    with pytest.raises(
        UserError, match=f"dump: no utterance is longer than {least - 1} .* fewer than {least}:"
    ):
        BilevelTask.main(cmd=cmd)
    (tmp_path / "stats" / "speech_shape").write_text(f"short {samples + 1}\n")
    assert BilevelTask.main(cmd=cmd) == 0


def test_audio_that_is_none_is_refused(command, corpus, tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFFxxxxWAVEjunk" * 50)
    lines = (corpus / "dump/unlabelled/wav.scp").read_text().splitlines()
    lines[4] = f"unlabelled04 {tmp_path / 'noise.wav'}"
    (tmp_path / "wav.scp").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"wav.scp:5: .*noise.wav: cannot be read: .* from features on"):
        BilevelTask.main(cmd=command("bilevel", tmp_path / "exp", "--unlabelled_data_dir", tmp_path))


def test_negatives_of_the_batch_need_one_process(training):
    whole = ["--ssl_conf", "negatives=batch", "--frames_per_micro_batch", "0"]
    run = training(BilevelTask, "bilevel_infonce", *whole)
    stream = run.streams["unlabelled"]
    stream.world = argparse.Namespace(size=2)
    with pytest.raises(UserError, match="negatives: batch: the loss would depend on how a step is cut"):
        BilevelTask.build_objective(run.args, run.model, stream)


def test_negatives_of_the_batch_need_whole_steps(command, tmp_path):
    options = ["--ssl_conf", "negatives=batch", "--frames_per_micro_batch", "300"]
    with pytest.raises(UserError, match="negatives: batch: the loss would depend on how a step is cut"):
        BilevelTask.main(cmd=command("bilevel_infonce", tmp_path, *options))
