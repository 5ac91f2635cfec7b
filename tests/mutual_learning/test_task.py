"""The command: one peer is the control, K peers leave K experiments, and bad input ends before training."""

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_ext.asr.load import load_exported
from espnet_ext.asr.task import ASRTask
from espnet_ext.bin import calibration
from espnet_ext.decode.attention_greedy import attention_greedy
from espnet_ext.decode.ctc_greedy import ctc_greedy
from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.mutual_learning.best import present_best
from espnet_ext.mutual_learning.method import MutualMethod
from espnet_ext.mutual_learning.options import DEFAULTS, parse_conf
from espnet_ext.mutual_learning.peers import parse_peers
from espnet_ext.mutual_learning.task import MutualLearningTask
from espnet_ext.recipe.expand import expand
from espnet_ext.recipe.systems import load_systems
from espnet_ext.train import streams
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.export import export
from tests.mutual_learning.conftest import PEERS


def end_of(folder: Path) -> dict:
    state = torch.load(folder / NAME, weights_only=True)
    state["progress"].pop("seconds")
    for row in state["history"]:
        row.pop("seconds")
    return state


def same(one, other) -> bool:
    """Equal to the bit, through dictionaries and lists."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_one_peer_is_plain_training(toy_cmd, tmp_path, capfd):  # M2
    assert ASRTask.main(cmd=toy_cmd(tmp_path / "plain")) == 0
    assert MutualLearningTask.main(cmd=toy_cmd(tmp_path / "one", "--peers", "1")) == 0
    assert "one peer is plain training" in capfd.readouterr().out
    assert same(end_of(tmp_path / "plain"), end_of(tmp_path / "one"))
    assert (tmp_path / "one" / "nbest.json").read_text() == (tmp_path / "plain" / "nbest.json").read_text()


def test_control_with_scheduled_sampling_is_one_peer(toy_cmd, tmp_path):
    plain = ["--sampling_conf", "probability=0.5", "--sampling_conf", "warmup=3"]
    mutual = ["--mutual_learning_conf", "sampling=0.5", "--mutual_learning_conf", "sampling_warmup=3"]
    assert ASRTask.main(cmd=toy_cmd(tmp_path / "plain", *plain)) == 0
    assert MutualLearningTask.main(cmd=toy_cmd(tmp_path / "one", "--peers", "1", *mutual)) == 0
    assert same(end_of(tmp_path / "plain"), end_of(tmp_path / "one"))
    assert ASRTask.main(cmd=toy_cmd(tmp_path / "off")) == 0
    assert not same(end_of(tmp_path / "plain")["modules"], end_of(tmp_path / "off")["modules"])
    rows = list(csv.DictReader((tmp_path / "plain" / "history.csv").open()))
    assert float(rows[-1]["train_sampling"]) > float(rows[0]["train_sampling"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampling_conf", "probability=2"], r"probability 2: expected a number in \[0, 1\]"),
        (["--sampling_conf", "probability=much"], "probability 'much': expected a number"),
        (["--sampling_conf", "history=own"], "unknown history; there are probability, start"),
        (["--sampling_conf", "draw=best"], "draw best: expected sample or argmax"),
        (
            ["--sampling_conf", "probability=0.1", "--model_conf", "ctc_weight=1.0"],
            "the model has no attention branch",
        ),
    ],
)
def test_bad_scheduled_sampling_of_the_control(toy_cmd, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        ASRTask.main(cmd=toy_cmd(tmp_path / "exp", *options))


@pytest.mark.parametrize("number", [1, 2])
def test_weight_zero_is_the_peer_s_own_training(mutual, toy_cmd, tmp_path, monkeypatch, number):  # M1
    own = yaml.safe_load(PEERS)[number - 1]
    options = ["--seed", str(own.pop("seed")), "--grad_clip", str(own.pop("grad_clip", 1.0))]
    for option, values in own.items():
        options += [word for name, value in values.items() for word in (f"--{option}", f"{name}={value}")]
    # Its own seed would also draw its own order of the data, which peers share.
    plan = streams.plan_epoch
    monkeypatch.setattr(streams, "plan_epoch", lambda *a, **kw: plan(*a[:3], 0, *a[4:], **kw))
    assert ASRTask.main(cmd=toy_cmd(tmp_path, *options)) == 0
    alone, together = end_of(tmp_path), end_of(mutual)
    assert same(alone["modules"]["model"], together["modules"][f"peer{number}"])
    assert same(alone["updaters"]["model"], together["updaters"][f"peer{number}"])
    for mine, theirs in zip(together["history"], alone["history"], strict=True):
        for figure in ("train_loss", "train_acc", "valid_loss", "valid_loss_ctc", "valid_acc", "lr"):
            assert mine[f"{figure}_peer{number}"] == theirs[figure]
    folder = mutual / f"peer{number}"
    assert (
        json.loads((folder / "nbest.json").read_text())["epochs"]
        == json.loads((tmp_path / "nbest.json").read_text())["epochs"]
    )
    ours, plain = (yaml.safe_load((each / "config.yaml").read_text()) for each in (folder, tmp_path))
    different = {name for name in ours.keys() | plain.keys() if ours.get(name) != plain.get(name)}
    assert different <= {
        "output_dir",
        "command",
        "config",
    }  # the peer's folder is an experiment like any other


@torch.no_grad()
def decoded(model, batch) -> list:
    model.eval()
    memory, lens = model.encode_keyed(batch["speech"], batch["speech_lengths"], None)
    found = attention_greedy(model.decoder, memory, lens, model.sos, model.eos, model.blank_id)
    return [*found, *ctc_greedy(model.ctc.log_softmax(memory), lens, model.blank_id)]


def test_each_peer_is_exported_alone(mutual, batch, build_asr, tmp_path):  # M15
    final = torch.load(mutual / NAME, weights_only=True)["modules"]
    rows = list(csv.DictReader((mutual / "history.csv").open()))
    for name, size in (("peer1", 16), ("peer2", 24)):
        epochs = export(mutual / name, tmp_path / name, nbest=1)
        accuracy = [float(row[f"valid_acc_{name}"]) for row in rows]
        assert epochs == [1 + accuracy.index(max(accuracy))]
        in_training = build_asr(size=size)
        in_training.load_state_dict(torch.load(mutual / name / f"{epochs[0]}epoch.pth", weights_only=True))
        assert decoded(load_exported(tmp_path / name), batch) == decoded(in_training, batch)
        last = torch.load(mutual / name / "2epoch.pth", weights_only=True)
        assert same(last, dict(final[name]))
        summary = json.loads((mutual / name / "train_summary.json").read_text())
        assert summary["parameters"] == sum(p.numel() for p in in_training.parameters())
        assert summary["peer"] == name and summary["best_value"] == max(accuracy)


def test_best_peer_stands_in_the_experiment_s_folder(mutual, tmp_path):
    summary = json.loads((mutual / "train_summary.json").read_text())
    values = {name: about["best_value"] for name, about in summary["peers"].items()}
    best = max(sorted(values), key=values.get)
    assert summary["best_peer"] == best and summary["parameters"] == summary["peers"][best]["parameters"]
    assert export(mutual, tmp_path / "whole", nbest=2) == export(mutual / best, tmp_path / "best", nbest=2)
    states = [torch.load(tmp_path / each / "model.pth", weights_only=True) for each in ("whole", "best")]
    assert same(*states)
    config = yaml.safe_load((mutual / "config.yaml").read_text())
    assert config["peers"] == yaml.safe_load(PEERS) and config["mutual_learning_conf"] == {"weight": 0.0}


def test_run_again_after_the_end_changes_nothing(mutual, toy_cmd):
    before = {path: path.read_text() for path in mutual.rglob("*.json")}
    cmd = toy_cmd(mutual, "--peers", PEERS, "--mutual_learning_conf", "weight=0.0", "--resume", "true")
    assert MutualLearningTask.main(cmd=cmd) == 0
    assert {path: path.read_text() for path in mutual.rglob("*.json")} == before


def test_teacher_from_an_exported_model_of_another_size(mutual, toy_cmd, tmp_path, capfd):
    export(mutual / "peer2", tmp_path / "teacher", nbest=1)
    peers = f"[{{seed: 3}}, {{frozen: true, model_dir: '{tmp_path / 'teacher'}'}}]"
    cmd = toy_cmd(tmp_path / "exp", "--peers", peers, "--max_epoch", "1")
    assert MutualLearningTask.main(cmd=cmd) == 0
    assert "peer2 (frozen)" in capfd.readouterr().out
    state = torch.load(tmp_path / "exp" / NAME, weights_only=True)
    assert state["modules"].keys() == state["updaters"].keys() == {"peer1"}
    summary = json.loads((tmp_path / "exp" / "train_summary.json").read_text())
    assert summary["best_peer"] == "peer1" and summary["peers"]["peer2"]["frozen"] is True
    assert not (tmp_path / "exp" / "peer2").exists()
    row = next(csv.DictReader((tmp_path / "exp" / "history.csv").open()))
    assert float(row["train_loss_att_mutual_peer1"]) > 0
    # A teacher has a forward pass alone, which is a third of a learner's work.
    learns, teaches = (summary["peers"][name]["parameters"] for name in ("peer1", "peer2"))
    assert summary["encoder_frames"] == summary["frames"]["labelled"] > 0
    assert summary["compute"] == summary["encoder_frames"] * (3 * learns + teaches)
    assert summary["updates"] == summary["steps"] > 0


def test_only_peer_has_its_options_as_those_of_the_training(toy_cmd, tmp_path):
    peers = "[{seed: 5, encoder_conf: {output_size: 24}, optim_conf: {lr: 0.003}}]"
    cmd = toy_cmd(tmp_path / "one", "--peers", peers, "--max_epoch", "1")
    assert MutualLearningTask.main(cmd=cmd) == 0
    plain = [
        "--seed",
        "5",
        "--encoder_conf",
        "output_size=24",
        "--optim_conf",
        "lr=0.003",
        "--max_epoch",
        "1",
    ]
    assert ASRTask.main(cmd=toy_cmd(tmp_path / "plain", *plain)) == 0
    assert same(end_of(tmp_path / "plain"), end_of(tmp_path / "one"))
    assert export(tmp_path / "one", tmp_path / "export", nbest=1) == [1]  # and its configuration is its own


def test_exported_model_learns_on_but_for_what_is_frozen(mutual, toy_cmd, tmp_path):
    export(mutual / "peer2", tmp_path / "start", nbest=1)
    peers = f"[{{}}, {{model_dir: '{tmp_path / 'start'}', freeze_param: encoder}}]"
    args = MutualLearningTask.get_parser().parse_args(toy_cmd("exp", "--peers", peers))
    own = MutualLearningTask._model(parse_peers(args)[1], args, None, torch.device("cpu"))
    saved = torch.load(tmp_path / "start/model.pth", weights_only=True)
    assert same(dict(own.state_dict()), saved)
    learns = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, _ in own.named_parameters() if not name.startswith("encoder.")}


def test_seeds_of_peers_that_do_not_name_theirs(toy_cmd):
    args = MutualLearningTask.get_parser().parse_args(toy_cmd("exp", "--peers", "3", "--seed", "7"))
    assert [peer.seed for peer in parse_peers(args)] == [7, 1007, 2007]
    args.peers = [{}, {"seed": 5}, {}]
    assert [peer.seed for peer in parse_peers(args)] == [7, 5, 2007]


def test_best_peer_by_a_figure_that_should_be_small(mutual, tmp_path):
    shutil.copytree(mutual, tmp_path / "exp")
    (tmp_path / "exp/99epoch.pth").write_bytes(b"of another peer")
    losses = {"peer1": [], "peer2": []}
    for row in csv.DictReader((mutual / "history.csv").open()):
        for name, values in losses.items():
            values.append(float(row[f"valid_loss_{name}"]))
    least = {name: min(values) for name, values in losses.items()}
    assert all(min(values) < max(values) for values in losses.values())
    best = present_best(tmp_path / "exp", ["peer1", "peer2"], ("valid", "loss", "min"))
    assert best == min(least, key=least.get)
    summary = json.loads((tmp_path / "exp/train_summary.json").read_text())
    assert {name: about["best_value"] for name, about in summary["peers"].items()} == least
    kept = {path.name for path in (tmp_path / "exp").glob("*epoch.pth")}
    assert kept == {path.name for path in (mutual / best).glob("*epoch.pth")}


def measured(models, dump, folder, *more) -> dict:
    words = ["--model_dir", *map(str, models), "--data_dir", str(dump), "--out_dir", str(folder), *more]
    assert calibration.main(words) == 0
    return json.loads((folder / f"{dump.name}.json").read_text())


@pytest.fixture
def dump(toy_corpus, tmp_path):
    """The toy corpus as stage 3 leaves it, and an utterance too short to hear anything in."""
    folder = tmp_path / "dump"
    shutil.copytree(toy_corpus / "dump", folder)
    lengths = (toy_corpus / "stats" / "speech_shape").read_text()
    soundfile.write(tmp_path / "short.wav", [0.0] * 200, 16000)
    for name, text, line in (
        ("utt2num_samples", lengths, "zz 200"),
        ("text", (folder / "text").read_text(), "zz ab"),
        ("wav.scp", (folder / "wav.scp").read_text(), f"zz {tmp_path / 'short.wav'}"),
    ):
        (folder / name).write_text(f"{text}{line}\n")
    return folder


def test_calibration_of_an_exported_model(mutual, dump, tmp_path, capfd):
    models = [tmp_path / "one", tmp_path / "two"]
    for number, model in enumerate(models, 1):
        export(mutual / f"peer{number}", model, nbest=1)
    found = measured(models[:1], dump, tmp_path / "calibration", "--seconds", "1", "--bins", "1")
    rows = list(csv.DictReader((mutual / "history.csv").open()))
    best = max(rows, key=lambda row: float(row["valid_acc_peer1"]))
    # The training measured the same on the same set.
    assert found["accuracy"] == pytest.approx(float(best["valid_acc_peer1"]), abs=1e-6)
    assert found["max_posterior"] == pytest.approx(float(best["valid_max_posterior_peer1"]), abs=1e-5)
    assert found["ece"] == pytest.approx(abs(found["accuracy"] - found["max_posterior"]), abs=2e-6)
    texts = (dump / "text").read_text().splitlines()[:-1]
    assert found["labels"] == sum(len(line.split()[1]) + 1 for line in texts) and found["too_short"] == 1
    assert found["model_dir"] == str(models[0]) and len(found["model_sha256"]) == 64 and found["bins"] == 1
    both = measured(models, dump, tmp_path / "both")
    alone = [measured([model], dump, tmp_path / model.name / "calibration") for model in models]
    # The mean of two posteriors is less sure than they are on average, unless their peaks agree everywhere.
    assert both["max_posterior"] < sum(each["max_posterior"] for each in alone) / 2
    assert both["model_dir"] == list(map(str, models)) and both["labels"] == found["labels"]


def test_what_cannot_be_calibrated(mutual, dump, tmp_path, capfd):
    export(mutual / "peer1", tmp_path / "one", nbest=1)
    words = ["--model_dir", str(tmp_path / "one"), "--out_dir", str(tmp_path / "out"), "--data_dir"]
    assert calibration.main([*words, str(dump), str(dump)]) == 1
    assert "a set occurs twice" in capfd.readouterr().err
    assert calibration.main([*words, str(dump), "--bins", "0"]) == 1
    assert "--bins 0: expected more than 0" in capfd.readouterr().err
    (dump / "text").unlink()
    assert calibration.main([*words, str(dump)]) == 1
    assert "text" in capfd.readouterr().err


@pytest.mark.parametrize("recipe", ["TEMPLATE", "synth"])
def test_recipe_s_configuration_names_every_option(repo_root, recipe):
    folder = repo_root / "egs2" / recipe / "asr1/conf"
    config = yaml.safe_load((folder / "finetune_mutual_learning.yaml").read_text())
    assert config["mutual_learning_conf"].keys() == DEFAULTS.keys()
    parse_conf(config["mutual_learning_conf"])
    plain = yaml.safe_load((folder / "finetune.yaml").read_text())
    # Else the comparison with plain fine-tuning would be one of optimisers. Synth: runs of six minutes.
    epochs = {"TEMPLATE": plain["max_epoch"], "synth": 9}[recipe]
    assert {name: config[name] for name in plain} == {**plain, "max_epoch": epochs}
    assert config.keys() - plain.keys() == {"peers", "mutual_learning_conf"}


def test_options_of_the_systems_are_understood(repo_root, toy_cmd, mutual, tmp_path):
    systems = load_systems([repo_root / "espnet_ext/mutual_learning/controls.yaml"])
    config = yaml.safe_load((repo_root / "egs2/synth/asr1/conf/finetune_mutual_learning.yaml").read_text())
    parser = MutualLearningTask.get_parser()
    base = [
        "--mutual_learning_conf",
        json.dumps(config["mutual_learning_conf"]),
        "--peers",
        str(config["peers"]),
    ]
    teacher = tmp_path / "exp/mutual_learning_alone_seed7/peer2/export"
    export(mutual / "peer2", teacher, nbest=1)
    found = {}
    for name, system in systems.table.items():
        if system.method == "none":
            continue
        arguments = expand(
            system.options.get("finetune_args", ""), {"expdir": str(tmp_path / "exp"), "seed": "7"}
        )
        args = parser.parse_args(toy_cmd("exp", *base, *shlex.split(arguments)))
        options, peers = parse_conf(args.mutual_learning_conf), parse_peers(args)
        smoothing, masks = args.model_conf["lsm_weight"] > 0, args.specaug is not None
        found[name] = (len(peers), options.weight.peak > 0, smoothing, options.sampling is not None, masks)
        assert (args.max_epoch == config["peers"] * config["max_epoch"]) == (name == "mutual_learning_longer")
        assert [peer.frozen for peer in peers][1:] == [name == "mutual_learning_distillation"] * (
            len(peers) - 1
        )
    sweep = yaml.safe_load((repo_root / "benchmarks/sweeps/mutual_learning.yaml").read_text())
    tried = []
    for arguments in sweep.values():
        args = parser.parse_args(toy_cmd("exp", *base, *shlex.split(arguments)))
        options = parse_conf(args.mutual_learning_conf)
        assert len(parse_peers(args)) == 2
        tried.append((options, args.model_conf["lsm_weight"]))
    assert all(one != other for one, other in itertools.combinations(tried, 2))
    cells = list(itertools.product([False, True], repeat=3))
    for count, prefix in ((2, "mutual_learning"), (1, "mutual_learning_single")):  # the grid is whole
        grid = [about for name, about in found.items() if re.match(f"{prefix}(_bare|_with_.*)?$", name)]
        assert sorted(grid) == sorted((count, True, *cell) for cell in cells)
    assert found["mutual_learning_alone"] == (2, False, True, True, True)
    pairs = {(pair.system, pair.control) for pair in systems.pairs}
    for name in found:
        if "_with_" in name or "_bare" in name:
            if not name.startswith("mutual_learning_single"):
                single = name.replace("mutual_learning", "mutual_learning_single")
                assert found[single][2:] == found[name][2:] and (name, single) in pairs


def test_stopped_within_an_epoch_and_run_again_equals_untouched(mutual, toy_cmd, tmp_path, monkeypatch):
    export(mutual / "peer2", tmp_path / "teacher", nbest=1)
    peers = f"[{{}}, {{seed: 5}}, {{frozen: true, model_dir: '{tmp_path / 'teacher'}'}}]"
    options = ["--peers", peers, "--resume", "true", "--frames_per_step", "250", "--max_epoch", "1"]
    for each in ("weight_warmup=3", "sampling=0.5", "sampling_warmup=3"):
        options += ["--mutual_learning_conf", each]
    assert MutualLearningTask.main(cmd=toy_cmd(tmp_path / "untouched", *options)) == 0
    hurt = toy_cmd(tmp_path / "hurt", *options)

    def stopping(self, position):
        if position.step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(MutualMethod, "after_step", stopping)
        assert MutualLearningTask.main(cmd=hurt) == RUN_AGAIN
    assert end_of(tmp_path / "hurt")["progress"]["step"] == 2
    assert MutualLearningTask.main(cmd=hurt) == 0
    whole, again = end_of(tmp_path / "untouched"), end_of(tmp_path / "hurt")
    assert whole["progress"]["step"] > 3
    for part in ("modules", "updaters", "streams", "method"):
        assert same(whole[part], again[part]), part


def survive(repo_root, tmp_path, name: str, cmd: list[str], processes: int, harms=()) -> list[list[int]]:
    """Run a training in processes that fork, hurt it and run it again; returns the exit statuses."""
    task = "espnet_ext.mutual_learning.task:MutualLearningTask"
    plan = {"task": task, "cmd": cmd, "processes": processes, "harms": list(harms), "path": []}
    (tmp_path / f"{name}.json").write_text(json.dumps(plan))
    command = [sys.executable, repo_root / "tests" / "train" / "survive.py", tmp_path / f"{name}.json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=1800)
    assert done.returncode == 0
    statuses = json.loads(done.stdout.splitlines()[-1])["statuses"]
    assert statuses[-1] == [0] * processes
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_equals_untouched(toy_cmd, repo_root, tmp_path, processes):
    """With all that has a state: three peers, warm-ups, shared histories, accumulation, gloo processes."""
    options = [
        "--peers",
        "3",
        "--resume",
        "true",
        "--checkpoint_steps",
        "1",
        "--frames_per_micro_batch",
        "250",
    ]
    for each in ("weight_warmup=4", "sampling=0.5", "sampling_warmup=4", "masks=shared", "order=sequential"):
        options += ["--mutual_learning_conf", each]
    folders = [tmp_path / "untouched", tmp_path / "hurt"]
    survive(repo_root, tmp_path, "untouched", toy_cmd(folders[0], *options), processes)
    harms = [{"how": "kill", "after": 0.5}, {"how": "USR1", "after": "save"}]
    statuses = survive(repo_root, tmp_path, "hurt", toy_cmd(folders[1], *options), processes, harms)
    assert any(status != [0] * processes for status in statuses)
    ends = [end_of(folder) for folder in folders]
    for part in ("modules", "updaters", "streams", "method"):
        assert same(ends[0][part], ends[1][part]), part
    for peer in ("peer1", "peer2", "peer3"):
        files = [(folder / peer / "nbest.json").read_text() for folder in folders]
        assert files[0] == files[1]


@pytest.mark.slow
def test_one_process_accumulating_equals_two(toy_cmd, repo_root, tmp_path):
    options = ["--frames_per_micro_batch", "250", "--optim", "sgd", "--optim_conf", "{lr: 0.02}"]
    options += ["--mutual_learning_conf", "sampling=0.5", "--max_epoch", "4"]
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        survive(repo_root, tmp_path, f"plan{processes}", toy_cmd(folder, *options), processes)
        ends.append(end_of(folder))
    assert ends[0]["progress"]["step"] == ends[1]["progress"]["step"] >= 8
    for peer in ("peer1", "peer2"):
        one, two = (torch.cat([v.double().flatten() for v in end["modules"][peer].values()]) for end in ends)
        assert (one - two).norm() <= 1e-6 * one.norm()
    for one, two in zip(ends[0]["history"], ends[1]["history"], strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
