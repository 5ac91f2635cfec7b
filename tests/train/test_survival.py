"""Killed, preempted, out of disk: what is left and run again equals what was never touched."""

import csv
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.train import checkpoint
from espnet_ext.train.checkpoint import NAME

HERE = Path(__file__).parent

#: Saving after each step makes every moment one from which the run may have to go on.
EVERY_STEP = ("--resume", "true", "--checkpoint_steps", "1", "--max_epoch", "4")

KINDS = {
    "plain": ("espnet_ext.asr.task:ASRTask", 1, ()),
    "workers": ("espnet_ext.asr.task:ASRTask", 1, ("--num_workers", "2")),
    "accumulation": ("espnet_ext.asr.task:ASRTask", 1, ("--frames_per_micro_batch", "300")),
    "streams": ("two_streams:TwoStreamTask", 1, ("--frames_per_micro_batch", "450")),
    "processes": ("two_streams:TwoStreamTask", 2, ("--frames_per_micro_batch", "300")),
}


def train(tmp_path: Path, cmd: list[str], kind: str, harms: list[dict], processes: int | None = None) -> dict:
    """Run `survive.py`; returns what it prints."""
    task, count, _ = KINDS[kind]
    plan = {"task": task, "cmd": cmd, "processes": processes or count, "harms": harms, "path": [str(HERE)]}
    path = tmp_path / f"plan{len(list(tmp_path.glob('plan*')))}.json"
    path.write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, HERE / "survive.py", path],
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    return json.loads(done.stdout.splitlines()[-1])


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


@pytest.fixture(scope="module")
def untouched(toy_corpus, toy_cmd, tmp_path_factory):
    """Function: kind → folder of a run of that kind that was left alone."""
    folders: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(f"untouched {kind}")
            cmd = toy_cmd(folders[kind] / "exp", *EVERY_STEP, *KINDS[kind][2])
            assert train(folders[kind], cmd, kind, [])["statuses"] == [[0] * KINDS[kind][1]]
        return folders[kind] / "exp"

    return of


def assert_same_end(folder: Path, other: Path) -> None:
    mine, theirs = end_of(folder), end_of(other)
    for part in ("modules", "updaters", "streams", "method"):
        assert same(mine[part], theirs[part]), part
    if mine["run"]["processes"] == 1:
        assert same(mine["progress"], theirs["progress"]) and same(mine["history"], theirs["history"])
        assert {p.name for p in folder.glob("*epoch.pth")} == {p.name for p in other.glob("*epoch.pth")}
    else:  # after an interruption one process holds the sums of both: they round otherwise
        assert len(mine["history"]) == len(theirs["history"])
        for row, expected in zip(mine["history"], theirs["history"], strict=True):
            assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_twenty_hard_kills(toy_cmd, tmp_path):
    """Kill -9 at 20 moments, ten of them inside a save; long enough that most find the training at work."""
    longer = ("--max_epoch", "12")
    (tmp_path / "untouched").mkdir()
    train(tmp_path / "untouched", toy_cmd(tmp_path / "untouched" / "exp", *EVERY_STEP, *longer), "plain", [])
    cmd = toy_cmd(tmp_path / "exp", *EVERY_STEP, *longer)
    draw = random.Random(7)
    harms = [{"how": "kill", "after": "save"}] * 10
    harms += [{"how": "kill", "after": draw.uniform(0.0, 0.9)} for _ in range(10)]
    draw.shuffle(harms)
    result = train(tmp_path, cmd, "plain", harms)
    assert result["statuses"][-1] == [0]
    assert result["statuses"].count([-9]) >= 12 and result["in_save"] >= 5
    assert_same_end(tmp_path / "exp", tmp_path / "untouched" / "exp")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "USR1"])
@pytest.mark.parametrize("kind", ["workers", "accumulation", "streams", "processes"])
def test_every_kind_of_training_survives(untouched, toy_cmd, tmp_path, kind, how):
    cmd = toy_cmd(tmp_path / "exp", *EVERY_STEP, *KINDS[kind][2])
    # First a save, which cannot be missed however slow the machine is: the others may come after the end.
    harms = [{"how": how, "after": after} for after in ("save", 0.3, 0.8)]
    result = train(tmp_path, cmd, kind, harms)
    count = KINDS[kind][1]
    assert result["statuses"][-1] == [0] * count
    wanted = [[-9] * count] if how == "kill" else [[75] * count]
    # A run that had ended before its harm came does not count.
    assert result["statuses"][0] in wanted and result["in_save"] >= 1
    assert all(status in [*wanted, [0] * count] for status in result["statuses"])
    assert_same_end(tmp_path / "exp", untouched(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "streams"])
def test_one_process_accumulating_equals_two(toy_cmd, tmp_path, kind):
    """1 process × 2 micro-batches and 2 processes × 1: dropout, masks and BatchNorm's buffers included.

    With two micro-batches a step (plain) both add the same two gradients, and all is equal to the bit. A sum
    of four and more depends on its order in the last bit; Adam blows that up where a gradient is next to 0.
    """
    options = ("--max_epoch", "6", "--frames_per_micro_batch", "600" if kind == "plain" else "450")
    options += () if kind == "plain" else ("--optim", "sgd", "--optim_conf", "lr=0.02")
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        cmd = toy_cmd(folder / "exp", *options)
        assert train(folder, cmd, kind, [], processes)["statuses"] == [[0] * processes]
        ends.append(end_of(folder / "exp")["modules"] | {"step": end_of(folder / "exp")["progress"]["step"]})
    one, two = ends
    assert one["step"] >= 20
    if kind == "plain":
        assert same(one, two)
        return
    for module in ("model", "head"):
        values, others = (
            torch.cat([value.double().reshape(-1) for value in end[module].values()]) for end in ends
        )
        assert (values - others).norm() <= 1e-6 * values.norm(), module
    assert one["head"]["0.num_batches_tracked"] == two["head"]["0.num_batches_tracked"] == one["step"]


def test_a_disk_that_is_full_for_a_while(untouched, toy_cmd, tmp_path, monkeypatch, capfd):
    """A save that fails within an epoch is reported; the training goes on and ends as if nothing had been."""
    real = checkpoint.save
    calls = []

    def save(state, folder):
        calls.append(state["progress"]["step"])
        if len(calls) in (2, 3):
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
            try:
                return real(state, folder)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return real(state, folder)

    monkeypatch.setattr(checkpoint, "save", save)
    assert ASRTask.main(cmd=toy_cmd(tmp_path, *EVERY_STEP)) == 0
    assert capfd.readouterr().out.count("warning: no checkpoint was written") == 2
    assert_same_end(tmp_path, untouched("plain"))


def test_too_many_bad_steps_end_the_run_and_leave_the_batch(toy_cmd, tmp_path, monkeypatch, capfd):
    """One utterance whose loss is infinite is named; with nothing else in the data the run ends."""
    real = ASRModel.joint_loss
    monkeypatch.setattr(ASRModel, "joint_loss", lambda *args: real(*args) * float("inf"))
    with pytest.raises(UserError, match="3 steps in a row without a finite loss and gradient.*bad_batch.pth"):
        ASRTask.main(cmd=toy_cmd(tmp_path, "--max_skipped_steps", "3"))
    assert capfd.readouterr().out.count("skipped (model): loss or gradient norm is inf; utterances utt") == 3
    saved = torch.load(tmp_path / "bad_batch.pth", weights_only=True)
    assert saved[0]["tensors"]["speech"].size(0) == len(saved[0]["utterances"])


def test_another_number_of_processes_is_told(toy_cmd, tmp_path, capfd, monkeypatch):
    """It goes on, and says that it is not as if it had not been interrupted."""
    assert ASRTask.main(cmd=toy_cmd(tmp_path, "--max_epoch", "1")) == 0
    (tmp_path / "train_summary.json").unlink()
    extra = ("--max_epoch", "2", "--resume", "true", "--frames_per_micro_batch", "300")
    assert ASRTask.main(cmd=toy_cmd(tmp_path, *extra)) == 0
    assert "warning: not as before the interruption: frames" in capfd.readouterr().out


def test_automatic_micro_batch_is_kept_with_the_experiment(untouched, toy_cmd, tmp_path, capfd):
    """On a CPU it is the whole step: the same training, and a file that says so."""
    cmd = toy_cmd(tmp_path, *EVERY_STEP, "--frames_per_micro_batch", "auto")
    assert ASRTask.main(cmd=cmd) == 0
    kept = json.loads((tmp_path / "micro_batch.json").read_text())
    assert kept == {"frames_per_micro_batch": {"labelled": 900}, "device": "cpu", "processes": 1}
    mine, theirs = end_of(tmp_path), end_of(untouched("plain"))
    assert same(mine["modules"], theirs["modules"]) and same(mine["updaters"], theirs["updaters"])
    (tmp_path / "micro_batch.json").write_text('{"frames_per_micro_batch": {}}')
    with pytest.raises(UserError, match="micro_batch.json: says nothing of the data labelled"):
        ASRTask.main(cmd=cmd)


def test_best_models_by_two_criteria(toy_cmd, tmp_path):
    """Each criterion's best epochs are kept, and no others."""
    config = yaml.safe_load((Path(toy_cmd(tmp_path)[1])).read_text())
    config["best_model_criterion"] = [["valid", "acc", "max"], ["train", "loss", "min"]]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    cmd = toy_cmd(tmp_path / "exp", "--keep_nbest_models", "1", "--max_epoch", "6")
    cmd[1] = str(tmp_path / "two.yaml")
    assert ASRTask.main(cmd=cmd) == 0
    ranked = json.loads((tmp_path / "exp" / "nbest.json").read_text())
    rows = list(csv.DictReader((tmp_path / "exp" / "history.csv").open()))
    accurate = max(rows, key=lambda row: float(row["valid_acc"]))["epoch"]
    fitting = min(rows, key=lambda row: float(row["train_loss"]))["epoch"]
    assert ranked["epochs"] == [int(accurate)] and ranked["criterion"] == ["valid", "acc", "max"]
    assert [each["epochs"] for each in ranked["criteria"]] == [[int(accurate)], [int(fitting)]]
    kept = {path.name for path in (tmp_path / "exp").glob("*epoch.pth")}
    assert {f"{accurate}epoch.pth", f"{fitting}epoch.pth"} <= kept
    assert len(kept) <= 4  # and those that were best at the checkpoint before


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "ours", "srun's variables"])
def test_launchers(toy_cmd, tmp_path, launcher):
    """Two processes find each other under torchrun, under our own launcher, and as srun would start them."""
    module = ["-m", "espnet_ext.bin.asr_train", *toy_cmd(tmp_path / "exp", "--max_epoch", "1")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *module]
        commands = [(start, env)]
    elif launcher == "ours":
        command = [sys.executable, *module]
        code = f"from espnet_ext.train.spawn import run; import sys; sys.exit(run(2, {command!r}))"
        commands = [([sys.executable, "-c", code], env)]
    else:
        step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
        step["SLURM_JOB_ID"] = str(os.getpid())
        commands = [
            ([sys.executable, *module], env | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
            for rank in ("0", "1")
        ]
    running = [subprocess.Popen(cmd, env=each, stdout=subprocess.DEVNULL) for cmd, each in commands]
    assert [process.wait(timeout=600) for process in running] == [0] * len(running)
    assert json.loads((tmp_path / "exp" / "train_summary.json").read_text())["processes"] == 2
