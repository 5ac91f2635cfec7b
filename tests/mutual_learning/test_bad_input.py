"""Peers that cannot learn from each other, and options that say nothing: a clear error before training."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_ext.asr.sampled import parse_sampling
from espnet_ext.bin import check_training
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.options import parse_conf
from espnet_ext.mutual_learning.peers import parse_peers
from espnet_ext.mutual_learning.task import MutualLearningTask
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.export import export


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mutual_learning_conf", "weight=1.0"], r"weight 1.0: expected a number in \[0, 1\)"),
        (["--mutual_learning_conf", "weight=-0.5"], r"weight -0.5: expected a number in \[0, 1\)"),
        (["--mutual_learning_conf", "weight=much"], "weight 'much': expected a number"),
        (["--mutual_learning_conf", "lambda=0.5"], "unknown lambda; there are ctc, form"),
        (["--mutual_learning_conf", "masks=same"], "masks same: expected independent or shared"),
        (["--mutual_learning_conf", "ctc=1"], "ctc 1: expected true or false"),
        (["--mutual_learning_conf", "temperature=0"], "temperature 0: expected more than 0"),
        (["--mutual_learning_conf", "sampling=1.5"], r"sampling 1.5: expected a number in \[0, 1\]"),
        (["--mutual_learning_conf", "weight_warmup=-1"], "numbers of steps from 0 on"),
        (["--peers", "0"], "expected at least one peer"),
        (["--peers", "many"], "expected a number, or a list"),
        (
            ["--peers", "[{seed: 1"],
            r"^--peers '\[\{seed: 1': not YAML: [^\n]* at character 10; expected a number[^\n]*$",
        ),
        (["--mutual_learning_conf", "weight=.nan"], r"weight nan: expected a number in \[0, 1\)"),
        (["--mutual_learning_conf", "sampling=.nan"], r"sampling nan: expected a number in \[0, 1\]"),
        (["--mutual_learning_conf", "temperature=.inf"], "temperature inf: expected more than 0, and finite"),
        (["--peers", "[{}, {seed: 0}]"], r"peer1 and peer2 have the same model, start and seed \(0\)"),
        (["--peers", "[{}, {layers: 3}]"], "peer2: layers: not an option of a peer"),
        (["--peers", "[{}, {encoder_conf: 3}]"], "peer2: encoder_conf 3: expected a mapping"),
        (["--peers", "[{}, {seed: one}]"], "peer2: seed one"),
        (["--peers", "[{}, {token_type: word}]"], "peer2: token_type word: peers compare posteriors token"),
        (["--peers", "[{}, {frozen: true}]"], "peer2: is frozen and has no checkpoint"),
        # The recipe gives all peers the starting model, which is not what a teacher was trained to.
        (
            ["--init_param", "a.pth", "--peers", "[{}, {frozen: true}]"],
            "peer2: is frozen and has no checkpoint",
        ),
        (["--peers", "[{}, {frozen: maybe}]"], "peer2: frozen maybe: expected true or false"),
        (["--peers", "[{}, {grad_clip: null}]"], "peer2: grad_clip None: expected a number"),
        (["--peers", "[{}, {init_param: 3}]"], "peer2: init_param 3: expected a text or a list of texts"),
        (["--peers", "[{}, {model_dir: 3}]"], "peer2: model_dir 3: expected the folder"),
        (
            ["--peers", "[{}, {ignore_init_mismatch: maybe}]"],
            "ignore_init_mismatch maybe: expected true",
        ),
        (["--peers", "[{}, {optim: none}]"], "peer2: optim none: expected one of .*adamw"),
        (["--peers", "[{}, {scheduler: slow}]"], "peer2: scheduler slow: expected one of .*warmupdecay"),
        (["--peers", "[{}, {token_list: 3}]"], "peer2: token_list 3: peers compare posteriors"),
        (["--peers", "[{}, {encoder: nosuch}]"], "peer2: --encoder must be one of .*conformer.*nosuch"),
        (["--peers", "[{}, {encoder_conf: {layers: 3}}]"], "peer2: encoder_conf: .* has no option 'layers'"),
        (
            ["--peers", "[{}, {model_conf: {length_normalized_loss: true}}]"],
            "peer2: model_conf: length_normalized_loss: true: .*--loss_norm token",
        ),
        (
            ["--peers", "[{}, {specaug: none}]", "--mutual_learning_conf", "masks=shared"],
            "masks: shared, and peer1 and peer2 have different specaug",
        ),
        (
            ["--peers", "[{}, {frozen: true, init_param: a.pth, optim: sgd}]"],
            "peer2: is frozen, optim would have no",
        ),
        (["--peers", "[{frozen: true, init_param: a.pth}]"], "all of them are frozen"),
        (["--peers", "[{}, {model_dir: nowhere}]"], "peer2: nowhere/config.yaml: no such file"),
        (
            ["--peers", "[{}, {init_param: nowhere.pth}]"],
            "peer2: --init_param nowhere.pth: no such model file; looked for",
        ),
        (["--peers", "[{}, {model_conf: {ctc_weight: 1.0}}]"], "peer2 has no attention branch"),
        (
            ["--peers", "[{}, {encoder_conf: {input_layer: conv2d2}}]", "--mutual_learning_conf", "ctc=true"],
            r"the peers make \[24, 62\] and \[48, 123\] frames",
        ),
        (
            ["--peers", "[{}, {decoder: rnn}]", "--mutual_learning_conf", "sampling=0.2"],
            "sampling needs a Transformer decoder, and peer2 has RNNDecoder",
        ),
    ],
)
def test_bad_input_ends_before_training(toy_cmd, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", *options))
    assert not (tmp_path / "exp" / NAME).exists()


def test_empty_block_of_options():
    for parse, name in ((parse_conf, "mutual_learning_conf"), (parse_sampling, "sampling_conf")):
        with pytest.raises(UserError, match=f"{name}: expected options as `name: value`, got None"):
            parse(None)


def test_options_are_tried_before_the_files_are_there(tmp_path, capsys):
    """Before stage 1: what is wrong whatever the files hold; what earlier stages write is not missed."""
    (tmp_path / "model.yaml").write_text("{encoder: transformer, max_epoch: 3}")
    (tmp_path / "finetune.yaml").write_text("peers: 2\nmutual_learning_conf: {weight: 0.5}\n")
    (tmp_path / "empty.yaml").write_text("mutual_learning_conf:\n")

    def tried(*words: str, config: str = "finetune") -> tuple[int, str]:
        own = ["--task", "mutual_learning", "--seed", "1", *start]
        files = [str(tmp_path / f"{name}.yaml") for name in ("model", config)]
        return check_training.main([*own, *files, "--", *words]), capsys.readouterr().err

    start: list[str] = []
    assert tried()[0] == 0
    later = (
        "[{}, {seed: 1, init_param: []}, {frozen: true, model_dir: later/export}, {token_list: later.txt}]"
    )
    assert tried("--peers", later) == (0, "")
    for words, message in (
        (
            ["--peers", "[{}, {sed: 5}]"],
            "--peers: peer2: sed: not an option of a peer; there are seed, frozen",
        ),
        (["--peers", "[{}, {seed: 1}]"], r"--peers: peer1 and peer2 have the same .*seed \(1\)"),
        (
            ["--peers", "[{}, {frozen: true}]"],
            "--peers: peer2: is frozen and has no checkpoint of its own; give",
        ),
        (["--peers", "[{}, {frozen"], "--peers .*: not YAML: .*; expected a number, or a list"),
        (["--mutual_learning_conf", "lamda=0.5"], "mutual_learning_conf: unknown lamda; there are ctc"),
        (
            ["--mutual_learning_conf", "weight=1"],
            r"mutual_learning_conf: weight 1: expected a number in \[0, 1\)",
        ),
        (["--max_epohc", "3"], "unrecognized arguments: --max_epohc 3; did you mean --max_epoch"),
    ):
        status, error = tried(*words)
        assert status == 1 and re.fullmatch(f"error: {message}[^\n]*\n", error), error
    start += ["--start", "exp/start"]  # stage 6 will write it, and nobody another one
    for there in ("model_dir: exp/start/export", f"init_param: '{Path.cwd() / 'exp/start/2epoch.pth'}'"):
        assert tried("--peers", f"[{{}}, {{frozen: true, {there}}}]") == (0, "")
    for option in ("model_dir: exp/strat/export", "init_param: exp/strat/1epoch.pth"):
        status, error = tried("--peers", f"[{{}}, {{frozen: true, {option}}}]")
        assert status == 1 and error.startswith("error: --peers: peer2: exp/strat"), error
    status, error = tried(config="empty")
    assert status == 1 and error.startswith("error: mutual_learning_conf: expected options")


def test_teacher_with_other_tokens_is_refused(mutual, toy_cmd, tmp_path):
    export(mutual / "peer1", tmp_path / "teacher", nbest=1)
    path = tmp_path / "teacher" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["token_list"][3] = "ä"
    path.write_text(yaml.safe_dump(config))
    peers = f"[{{}}, {{frozen: true, model_dir: '{tmp_path / 'teacher'}'}}]"
    (tmp_path / "other.txt").write_text("\n".join(config["token_list"]) + "\n")
    with pytest.raises(UserError, match="peer2: token_list .*other.txt: peers compare posteriors"):
        other = f"[{{}}, {{token_list: '{tmp_path / 'other.txt'}'}}]"
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", "--peers", other))
    with pytest.raises(UserError, match=r"another token list \(13 tokens\) than this training \(13\)"):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", "--peers", peers))


def edited(folder: Path, target: Path, **options) -> Path:
    """A copy of an exported model with other options in its configuration."""
    shutil.copytree(folder, target)
    config = yaml.safe_load((target / "config.yaml").read_text())
    (target / "config.yaml").write_text(yaml.safe_dump(config | options))
    return target


def test_exported_model_that_is_no_peer(mutual, toy_cmd, toy_corpus, tmp_path):
    whole = tmp_path / "whole"
    export(mutual / "peer1", whole, nbest=1)
    state = torch.load(whole / "model.pth", weights_only=True)
    front_end = yaml.safe_load((whole / "config.yaml").read_text())["frontend_conf"]
    mean = {"normalize": "global_mvn", "normalize_conf": {"stats_file": "stats.npz"}}
    cases = {
        "peer2: .*model.pth: no such file; model_dir is a folder that stage 9": edited(
            whole, tmp_path / "half"
        ),
        "peer2: .*model.pth: cannot be read as a file of tensors": edited(whole, tmp_path / "cut"),
        r"peer2: .*model.pth: 1 of the model's tensors are not in it \(ctc.ctc_lo.bias\)": edited(
            whole, tmp_path / "part"
        ),
        "audio of 8000 Hz, and this training reads audio of 16000 Hz": edited(
            whole, tmp_path / "slow", frontend_conf=front_end | {"fs": "8k"}
        ),
        "stored features of 80 numbers a frame, and this training reads audio": edited(
            whole, tmp_path / "stored", input_size=80
        ),
        "peer2: .*is a transducer; peers meet": edited(whole, tmp_path / "joint", joint_network_conf={}),
        "peer2: .*stats.npz: named in .*config.yaml and not there": edited(whole, tmp_path / "mean", **mean),
    }
    (tmp_path / "half/model.pth").unlink()
    (tmp_path / "cut/model.pth").write_bytes((whole / "model.pth").read_bytes()[:5000])
    torch.save({n: v for n, v in state.items() if n != "ctc.ctc_lo.bias"}, tmp_path / "part/model.pth")
    for message, folder in cases.items():
        for frozen in ("true", "false"):  # an exported model is whole, whether it teaches or learns
            peers = f"[{{}}, {{frozen: {frozen}, model_dir: '{folder}'}}]"
            with pytest.raises(UserError, match=message):
                MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", "--peers", peers))
    encoder = f"[{{}}, {{frozen: true, init_param: '{whole}/model.pth:encoder:encoder'}}]"
    with pytest.raises(UserError, match="peer2: .*of the model's tensors are not in it"):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", "--peers", encoder))
    # With its statistics beside it the same model is understood, wherever the training runs.
    (tmp_path / "mean/stats.npz").write_bytes(b"")
    peers = f"[{{}}, {{model_dir: '{tmp_path / 'mean'}'}}]"
    args = MutualLearningTask.get_parser().parse_args(toy_cmd("exp", "--peers", peers))
    assert parse_peers(args)[1].args.normalize_conf["stats_file"] == str(tmp_path / "mean/stats.npz")


def test_start_that_all_peers_have(mutual, toy_cmd, tmp_path):
    export(mutual / "peer1", tmp_path / "start", nbest=1)
    options = ["--init_param", str(tmp_path / "start/model.pth"), "--specaug", "none"]
    for part in ("encoder", "decoder"):
        for rate in ("dropout_rate", "positional_dropout_rate"):
            options += [f"--{part}_conf", f"{rate}=0.0"]
    message = "peer1 and peer2 start equal, and neither dropout nor masks"
    with pytest.raises(UserError, match=message):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", *options))
    masks = ["--specaug", "specaug", "--mutual_learning_conf", "masks=shared"]
    with pytest.raises(UserError, match=message):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", *options, *masks))
    larger = ["--peers", "[{}, {encoder_conf: {output_size: 24}}]"]
    with pytest.raises(UserError, match=r"(?s)peer2: .*do not fit .*init_param: \[\] starts this one anew"):
        MutualLearningTask.main(cmd=toy_cmd(tmp_path / "exp", *options, *larger))
    for parted in (  # any of these makes them different
        ["--specaug", "specaug"],
        ["--decoder_conf", "dropout_rate=0.1"],
        ["--peers", "[{}, {init_param: []}]"],
        ["--peers", "[{}, {optim_conf: {lr: 0.1}}]"],
        ["--mutual_learning_conf", "sampling=0.1", "--mutual_learning_conf", "sampling_history=own"],
    ):
        cmd = toy_cmd(tmp_path / "exp", *options, *parted, "--dry_run", "true")
        assert MutualLearningTask.main(cmd=cmd) == 0
