"""The recipe: what its stages run for each named system, without running it."""

import os
import subprocess
import sys

import pytest

from espnet_ext.recipe.stages import load_stages
from espnet_ext.recipe.systems import load_systems

#: Decide what stage 1 makes.
STAGE1 = ("stage1_tag", "streaming", "teacher_weights", "stage1_unlabelled", "stage1_args")


def own_systems() -> dict:
    return {n: s for n, s in load_systems().table.items() if s.method == "distillation"}


def dry_run(repo_root, folder, *words: str) -> str:
    environment = os.environ | {"ESPNET_EXT_OWN_PYTHON": "1"}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    folders = [f"--{name}dir={folder}/{name}" for name in ("data", "dump", "exp")]
    command = ["./run.sh", *folders, "--dry_run", "--stage", "pretrain", "--stop_stage", "finetune", *words]
    found = subprocess.run(
        command,
        cwd=repo_root / "egs2/synth/asr1",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def commands(output: str, task: str) -> str:
    """The command that runs a task."""
    found = [line for line in output.splitlines() if f"--task {task} " in line]
    assert len(found) == 1, output
    return found[0]


def test_systems_that_share_a_stage1_make_it_alike():
    found: dict[str, tuple] = {}
    for name, system in own_systems().items():
        if system.options.get("stage1", "True") == "False":
            assert not {"stage1_tag", "teacher_weights", "stage1_unlabelled"} & set(system.options), name
            continue
        how = tuple(system.options.get(option, "") for option in STAGE1)
        assert found.setdefault(how[0], how) == how, name


def test_stage1_comes_before_stage2(repo_root):
    labels = [stage.label for stage in load_stages(repo_root / "egs2/TEMPLATE/asr1/stages")]
    order = ["pretrain", "pretrain.bestrq", "targets.distillation", "finetune.distil_encoder"]
    places = [labels.index(name) for name in [*order, "finetune.distillation", "export"]]
    assert places == sorted(places)


def test_pairs_say_what_the_issue_asks():
    """Scratch with equal updates and with equal compute, each teacher alone, with and without the path."""
    pairs = {(p.system, p.control): p.matched for p in load_systems().pairs}
    for kind in ("", "_streaming"):
        base = f"distillation{kind}"
        assert "steps" in pairs[base, f"{base}_scratch"]
        assert "compute" in pairs[base, f"{base}_scratch_longer"]
        for other in ("supervised", "bestrq"):
            assert "compute" in pairs[base, f"{base}_{other}"]
        assert (f"{base}_path", base) in pairs and (f"{base}_unlabelled", base) in pairs


@pytest.mark.slow
def test_commands_of_systems(repo_root, tmp_path):
    both = dry_run(repo_root, tmp_path, "--system", "distillation", "--seed", "2")
    dump = next(line for line in both.splitlines() if "distill_targets" in line)
    assert "supervised=" in dump and "exp/pretrain_transducer_seed2/export" in dump and "bestrq=" in dump
    encoder = commands(both, "distillation_encoder")
    assert "teachers.supervised=1" in encoder and "teachers.bestrq=1" in encoder
    assert "exp/distil_encoder_both_seed2" in encoder and "unlabelled" not in encoder
    student = commands(both, "distillation")
    assert "exp/distillation_seed2 " in student and "--path_teacher" not in student
    assert f"--stage1 {tmp_path}/exp/distil_encoder_both_seed2" in student

    scratch = dry_run(repo_root, tmp_path, "--system", "distillation_scratch_path")
    # An encoder that knows nothing does not wait.
    assert "freeze_updates=0" in scratch and "freeze_updates" not in both
    assert "distillation_encoder" not in scratch and "distill_targets" not in scratch
    student = commands(scratch, "distillation")
    assert "--stage1" not in student and "path_weight=1" in student
    assert f"--path_teacher {tmp_path}/exp/pretrain_transducer_seed1/export" in student

    one = dry_run(repo_root, tmp_path, "--system", "distillation_streaming_bestrq")
    encoder = commands(one, "distillation_encoder")
    assert "teachers.bestrq=1" in encoder and "teachers.supervised" not in encoder
    assert one.count("conf/student_streaming.yaml") == 2

    more = dry_run(
        repo_root,
        tmp_path,
        *("--method", "distillation", "--stage1_unlabelled", "true", "--teachers", "hubert=/models/hubert"),
    )
    assert "--task ssl" not in more and "--teacher hubert=/models/hubert" in more
    assert f"--unlabelled_data_dir {tmp_path}/dump/raw/unlabelled" in commands(more, "distillation_encoder")

    looks = "fetch_teachers --check"
    whole = dry_run(
        repo_root, tmp_path, "--stage", "1", "--method", "distillation", "--teachers", "hubert=/models/hubert"
    )
    assert whole.index(looks) < whole.index("# stage 6")  # before anything is trained
    own = dry_run(
        repo_root, tmp_path, "--stage", "1", "--system", "distillation_bestrq", "--path_weight", "0.0"
    )
    assert own.index(f"{looks} ") < own.index("# stage 6") and "--weights bestrq=1 -- supervised=" in own
    assert "--path_teacher" not in own  # 0.0 is 0
    assert looks not in dry_run(repo_root, tmp_path, "--stage", "1", "--system", "distillation_scratch")

    live = dry_run(repo_root, tmp_path, "--method", "distillation", "--on_the_fly", "true")
    assert "distill_targets" not in live
    assert "--live_teacher supervised=" in commands(live, "distillation_encoder")
