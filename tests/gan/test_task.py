"""The command: what is refused before training, and that a training survives kills and other processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from espnet_ext.errors import UserError
from espnet_ext.gan.task import GANTask
from espnet_ext.registry import load_task
from espnet_ext.train.checkpoint import NAME

#: Runs the task; with KILL_AT it ends by SIGKILL before that step.
PROGRAM = """
import os, signal, sys
from espnet_ext.gan.task import GANTask
from espnet_ext.train.trainer import Trainer

step, limit = Trainer._step, int(os.environ.get("KILL_AT", -1))

def dying(self):
    if self.progress.step == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self)

Trainer._step = dying
sys.exit(GANTask.main(cmd=sys.argv[1:]))
"""


def start(command: list[str], **environment) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def final_state(folder) -> dict:
    state = torch.load(folder / NAME, weights_only=True)
    state["progress"].pop("seconds")
    for row in state["history"]:
        row.pop("seconds")
    return state


def assert_same(one, other, where: str = "", close: float = 0.0) -> None:
    """Equal through dictionaries and lists; tensors and floats to the bit, or ``close`` to each other."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}.{name}", close)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}.{index}", close)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=close, atol=close, equal_nan=True, msg=where)
    elif isinstance(one, float) and close:
        assert one == pytest.approx(other, rel=close, abs=close), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def command(toy_corpus):
    """Function: (folder, options) → command line; `toy_command` for fixtures of the whole module."""
    c = toy_corpus

    def make(folder, *extra: str) -> list[str]:
        folders = [f"--{s}_data_dir={c / 'dump'}" for s in ("train", "valid")]
        folders += [f"--{s}_stats_dir={c / 'stats'}" for s in ("train", "valid")]
        options = ["--config", str(c / "train.yaml"), "--output_dir", str(folder)]
        return [*options, "--token_list", str(c / "tokens.txt"), *folders, *extra]

    return make


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A run of two epochs that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert GANTask.main(cmd=command(folder)) == 0
    return folder


def test_what_a_training_leaves(whole):
    """The recogniser under plain names in what is kept, health figures in the history."""
    kept = torch.load(next(whole.glob("*epoch.pth")), weights_only=True)
    assert not any("critic" in name for name in kept)
    assert kept.keys() == final_state(whole)["modules"]["model"].keys()
    header = (whole / "history.csv").read_text().splitlines()[0].split(",")
    for name in (
        "critic_gap",
        "critic_penalty",
        "critic_slope",
        "grad_joint",
        "grad_adv",
        "peak",
        "loss_adv",
    ):
        assert f"train_{name}" in header
    assert {"valid_critic_gap", "valid_peak", "lr_model", "lr_critic"} <= set(header)
    summary = json.loads((whole / "train_summary.json").read_text())
    assert summary["alarms"] == [] and summary["critic_parameters"] > 0


def test_the_task_is_installed():
    assert load_task("gan") is GANTask


class Killed(Exception):
    pass


@pytest.mark.parametrize("dies_at, order", [(2, "fused"), (4, "fused"), (3, "paper")])
def test_resume_equals_no_interruption(whole, command, tmp_path, monkeypatch, dies_at, order):
    """Critic, its optimiser, alarms and draws go on where they were, to the bit."""
    from espnet_ext.train.trainer import Trainer

    extra = ("--gan_conf", f"order={order}", "--gan_conf", "lambda_d=0.1", "--gan_conf", "noise=0.1")
    step = Trainer._step

    def dying(self):
        if self.progress.step == dies_at:
            raise Killed
        step(self)

    options = command(tmp_path / "killed", "--checkpoint_steps", "1", *extra)
    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(Killed):
        GANTask.main(cmd=options)
    monkeypatch.setattr(Trainer, "_step", step)
    assert GANTask.main(cmd=[*options, "--resume", "true"]) == 0
    assert GANTask.main(cmd=command(tmp_path / "left alone", *extra)) == 0
    assert_same(final_state(tmp_path / "killed"), final_state(tmp_path / "left alone"))


@pytest.mark.slow
def test_kill_9(whole, command, tmp_path):
    options = command(tmp_path, "--checkpoint_steps", "1", "--resume", "true")
    for limit in (1, 4):
        process = start(options, KILL_AT=limit)
        process.communicate()
        assert process.returncode == -9
    process = start(options)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "resumed at epoch" in output
    assert_same(final_state(tmp_path), final_state(whole))


@pytest.mark.slow
def test_two_processes(whole, command, tmp_path):
    """Two processes share the micro-batches: the same training but for the order of sums."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
    processes = [start(command(tmp_path), RANK=rank, LOCAL_RANK=rank, **address) for rank in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = final_state(whole), final_state(tmp_path)
    assert one.pop("run") != two.pop("run")
    for state in (one, two):
        for updater in state["updaters"].values():
            updater["optimizer"].pop("state")  # squares of rounding where a gradient is zero by symmetry
    assert_same(one["method"], two["method"], "method", close=1e-4)
    assert_same(one["modules"]["critic"], two["modules"]["critic"], "critic", close=1e-4)
    assert_same(one["history"], two["history"], "history", close=1e-3)


@pytest.fixture
def checkpoint_of(toy_corpus, build_espnet):
    """Function: (folder, tokens) → an exported model: parameters of the toy recogniser and its tokens."""

    def make(folder, tokens=None):
        config = yaml.safe_load((toy_corpus / "train.yaml").read_text())
        tokens = tokens or (toy_corpus / "tokens.txt").read_text().split()
        folder.mkdir()
        torch.save(build_espnet(**{**config, "token_list": tokens}).state_dict(), folder / "model.pth")
        (folder / "config.yaml").write_text(yaml.safe_dump({"token_list": tokens}))
        return folder / "model.pth"

    return make


def test_a_checkpoint_is_where_training_starts(checkpoint_of, command, tmp_path, capfd):
    path = checkpoint_of(tmp_path / "start")
    options = ("--init_param", str(path), "--max_epoch", "1", "--optim_conf", "lr=0.0")
    assert GANTask.main(cmd=command(tmp_path / "exp", *options)) == 0
    before, after = torch.load(path), torch.load(tmp_path / "exp" / "1epoch.pth")
    assert_same(dict(before), dict(after))


def test_a_vocabulary_that_differs(toy_corpus, checkpoint_of, command, tmp_path):
    tokens = (toy_corpus / "tokens.txt").read_text().split()
    swapped = [*tokens[:2], tokens[3], tokens[2], *tokens[4:]]
    for name, list_, text in (
        ("order", swapped, r"order/config\.yaml: token 2 is 'b', this training's 'a'; use the token list"),
        ("size", tokens[:5] + tokens[-1:], r"size/config\.yaml: 6 tokens, this training has 11; use the"),
    ):
        path = checkpoint_of(tmp_path / name, list_)
        with pytest.raises(UserError, match=text):
            GANTask.main(cmd=command(tmp_path / "exp", "--init_param", str(path)))
        assert not (tmp_path / "exp").exists()


def test_a_checkpoint_without_an_attention_decoder(checkpoint_of, command, tmp_path):
    path = checkpoint_of(tmp_path / "ctc")
    state = {name: value for name, value in torch.load(path).items() if not name.startswith("decoder.")}
    torch.save(state, path)
    with pytest.raises(UserError, match="brings no parameter of the attention decoder"):
        GANTask.main(cmd=command(tmp_path / "exp", "--init_param", str(path)))
    for options in (("--model_conf", "ctc_weight=1.0"), ("--decoder", "null"), ("--decoder", "transducer")):
        with pytest.raises(UserError, match="no attention decoder whose output a critic could judge"):
            GANTask.main(cmd=command(tmp_path / "exp", *options))
    assert not (tmp_path / "exp").exists()


def test_a_vocabulary_that_differs_with_mismatches_ignored(checkpoint_of, toy_corpus, command, tmp_path):
    """No config.yaml lies beside it: what would stay random is not taken in silence."""
    tokens = (toy_corpus / "tokens.txt").read_text().split()
    path = checkpoint_of(tmp_path / "size", tokens[:5] + tokens[-1:])
    (path.parent / "config.yaml").unlink()
    start = ("--init_param", str(path), "--ignore_init_mismatch", "true")
    with pytest.raises(UserError, match=r"brings no decoder\.embed\.0\.weight for this training's 11 tokens"):
        GANTask.main(cmd=command(tmp_path / "exp", *start))
    assert not (tmp_path / "exp").exists()


def test_an_encoder_of_other_tokens_is_welcome(checkpoint_of, toy_corpus, command, tmp_path):
    tokens = (toy_corpus / "tokens.txt").read_text().split()
    other = checkpoint_of(tmp_path / "other", tokens[:5] + tokens[-1:])
    own = checkpoint_of(tmp_path / "own")
    start = ("--init_param", f"{other}:encoder:encoder", f"{own}:decoder:decoder", f"{own}:ctc:ctc")
    still = ("--max_epoch", "1", "--optim_conf", "lr=0.0")
    assert GANTask.main(cmd=command(tmp_path / "exp", *start, *still)) == 0
    trained = torch.load(tmp_path / "exp" / "1epoch.pth")
    for name, value in torch.load(own).items():
        if name.startswith(("decoder.", "ctc.")):
            assert torch.equal(trained[name], value), name
    for name, value in torch.load(other).items():
        if name.startswith("encoder."):
            assert torch.equal(trained[name], value), name


def test_a_folder_is_no_checkpoint(checkpoint_of, command, tmp_path):
    folder = checkpoint_of(tmp_path / "start").parent
    with pytest.raises(UserError, match=r"start: a folder; give the model file in it: model\.pth"):
        GANTask.main(cmd=command(tmp_path / "exp", "--init_param", str(folder)))


def test_stop_ends_the_command(command, tmp_path, capfd):
    """Status 1 and the alarm as the error; run again, it goes on from its checkpoint, and stops again."""
    from espnet_ext.bin.asr_train import main

    words = ["action=stop", "interval=2", "patience=1", "penalty=1e-9"]
    extra = [word for each in words for word in ("--alarm_conf", each)]
    options = [
        "--task",
        "gan",
        *command(tmp_path / "exp", "--checkpoint_steps", "1", "--resume", "true", *extra),
    ]
    for _ in range(2):
        assert main(options) == 1
        assert "error: alarm: step 2: the gradient penalty is" in capfd.readouterr().err
    assert not (tmp_path / "exp" / "train_summary.json").exists()
    assert main([*options, "--alarm_conf", "action=warn"]) == 0
    assert "resumed at epoch 1, step 1" in capfd.readouterr().out
    assert "step 2: " in json.loads((tmp_path / "exp" / "train_summary.json").read_text())["alarms"][0]


def test_a_recogniser_that_never_learns_ends_the_training(command, tmp_path, monkeypatch):
    """The critic's updates go on meanwhile; they do not count for the recogniser's."""
    from espnet_ext.gan.method import GANMethod

    part = GANMethod.recogniser_part

    def broken(self, micro):
        loss = part(self, micro)
        loss.loss = loss.loss * float("inf")
        return loss

    monkeypatch.setattr(GANMethod, "recogniser_part", broken)
    with pytest.raises(UserError, match="3 steps in a row without a finite loss and gradient"):
        GANTask.main(cmd=command(tmp_path, "--max_skipped_steps", "3"))


def test_convolutions_of_a_gpu_do_not_round(whole, command, tmp_path, monkeypatch):
    """fp32 is not TF32: torch's default for convolutions, and so for the critic's, would be."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    GANTask.main(cmd=command(tmp_path, "--max_epoch", "1"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    "extra, text",
    [
        (("--gan_conf", "lambda_d=-0.1"), "gan_conf: lambda_d: expected a number not below 0, got -0.1"),
        (("--gan_conf", "lambda=1"), "gan_conf: no option 'lambda'"),
        (("--critic_conf", "norm=group"), "critic_conf: norm: expected one of batch, layer, none"),
        (("--critic_conf", "depth=3"), "critic_conf: no option 'depth'; there are width"),
        (("--critic_conf", "wdth=3"), "critic_conf: no option 'wdth'; .*did you mean width"),
        (("--alarm_conf", "interval=0"), "alarm_conf: interval"),
        (("--freeze_param", "encoder", "decoder"), "freezes encoder and decoder; nothing is left"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_options_are_checked_first(command, tmp_path, extra, text):
    with pytest.raises(UserError, match=text):
        GANTask.main(cmd=command(tmp_path / "exp", *extra))
    assert not (tmp_path / "exp").exists()


def test_sections_that_are_no_mappings(toy_corpus, command, tmp_path):
    config = yaml.safe_load((toy_corpus / "train.yaml").read_text())
    for name, value in (("gan_conf", None), ("critic_conf", [2, 2]), ("alarm_conf", "stop")):
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config | {name: value}))
        with pytest.raises(UserError, match=f"{name}: expected options as `.*: ...`, got "):
            GANTask.main(cmd=command(tmp_path / "exp", "--config", str(tmp_path / "train.yaml")))


@pytest.mark.parametrize(
    "option, value, text",
    [
        ("optim2_conf", "learning_rate=1", "optim2_conf: adam: has no option learning_rate; adam takes lr, "),
        ("optim2_conf", "lr=-1", "optim2_conf: adam: Invalid learning rate: -1"),
        ("optim_conf", "lr=1e-4", "optim_conf: adam: .*YAML takes lr '1e-4' for a text: write 1.0e-4"),
        ("scheduler2_conf", "warm=3", "scheduler2_conf: warmuplr: has no option warm; warmuplr takes "),
    ],
)
def test_optimisers_options(command, tmp_path, option, value, text):
    with pytest.raises(UserError, match=text):
        GANTask.main(cmd=command(tmp_path / "exp", "--scheduler2", "warmuplr", f"--{option}", value))


def test_transcripts_shorter_than_the_kernels(command, tmp_path, capfd):
    kernels = ("--critic_conf", "kernel_sizes=[2,4]")
    with pytest.raises(
        UserError, match=r"of 12 transcripts are too short for the critic's kernels, which need 5 labels"
    ):
        GANTask.main(cmd=command(tmp_path / "a", *kernels))
    assert not (tmp_path / "a" / "history.csv").exists()
    with pytest.raises(UserError, match=r"12 of 12 .*: choose smaller kernels \(.*kernel_sizes\)$"):
        GANTask.main(cmd=command(tmp_path / "a", "--critic_conf", "kernel_sizes=[9,9]"))
    with pytest.raises(UserError, match="min_length 4: the critic's kernels need 5 labels"):
        GANTask.main(cmd=command(tmp_path / "b", *kernels, "--gan_conf", "min_length=4"))
    with pytest.raises(UserError, match="min_length 50: all transcripts are shorter; the longest has"):
        GANTask.main(cmd=command(tmp_path / "c", "--gan_conf", "min_length=50"))
    extra = ("--gan_conf", "min_length=5", "--max_epoch", "1")
    assert GANTask.main(cmd=command(tmp_path / "d", *kernels, *extra)) == 0
    assert "of 12 transcripts are too short for the critic" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["finetune_gan", "finetune_gan_paper"])
@pytest.mark.parametrize("recipe", ["TEMPLATE", "synth"])
def test_recipes_configurations_are_read(repo_root, recipe, name):
    """Merged over the recipe's pre-training as stage 8 does: every option exists and has a value in range."""
    from espnet_ext.gan.critic import Critic
    from espnet_ext.gan.options import AlarmOptions, GANOptions, from_conf
    from espnet_ext.recipe.merge import merge

    conf = repo_root / "egs2" / recipe / "asr1" / "conf"
    config = merge(conf / "pretrain.yaml", conf / f"{name}.yaml")
    known = {action.dest for action in GANTask.get_parser()._actions}
    assert set(config) <= known
    options = from_conf(GANOptions, "gan_conf", config["gan_conf"])
    from_conf(AlarmOptions, "alarm_conf", config.get("alarm_conf", {}))
    critic = Critic(5000, **config["critic_conf"])
    if name.endswith("paper"):
        assert sum(p.numel() for p in critic.parameters()) == 706_305
        assert (options.lambda_d, options.lambda_gp, options.order) == (1e-4, 10.0, "paper")
        assert config["optim_conf"] == config["optim2_conf"]
        numbers = {name: value for name, value in config["optim_conf"].items() if name != "fused"}
        assert numbers == {"lr": 1e-4, "betas": [0.5, 0.98], "eps": 1e-9}
        assert config["scheduler"] is None and "scheduler_conf" not in config
    else:
        plain = merge(conf / "pretrain.yaml", conf / "finetune.yaml")
        ours = {n: v for n, v in config.items() if n in plain}
        assert ours == plain  # the recogniser's side is the control's


def test_controls_are_the_methods_options(repo_root):
    """Each system's arguments and configuration are ones that the training command knows."""
    systems = yaml.safe_load((repo_root / "espnet_ext/gan/controls.yaml").read_text())
    known = {action.dest for action in GANTask.get_parser()._actions}
    assert {"gan", "gan_paper"} == set(systems["systems"])
    assert {"gan_no_critic", "gan_paper_no_critic", "none", "gan_from_scratch"} == set(systems["controls"])
    for run in (*systems["systems"].values(), *systems["controls"].values()):
        options = run.get("options", {})
        if "finetune_config" in options:
            assert (repo_root / "egs2/synth/asr1" / options["finetune_config"]).is_file()
        words = options.get("finetune_args", "").split()
        assert {word[2:] for word in words if word.startswith("--")} <= known
