"""A driver that is run again goes on from what the run before it has left, and only from that."""

import json
import re
import signal
import subprocess
import time

import pytest

from espnet_ext.launch.jobfolder import JOB_SH, JobFolder
from espnet_ext.launch.preempt import checkpoints_of
from espnet_ext.launch.request import parse_request
from espnet_ext.recipe.stages import load_stages
from espnet_ext.recipe.submit import progress_of
from tests.recipes.driver.conftest import real_template, recipe  # noqa: F401  fixtures

#: A training in short: it comes to its experiment's folder a while after its stage has begun.
TRAINING = """\
. ./hook
fresh "${dumpdir}/model"
mkdir -p "${dumpdir}/model"
echo "resume=${resume}"
"""


@pytest.fixture
def training(recipe):  # noqa: F811
    """The toy recipe; its second stage keeps an experiment in dump/model."""
    stage = recipe.template / "stages/02_two.sh"
    head, source, rest = stage.read_text().partition('. "${template_dir}/utils/stage.sh"\n')
    stage.write_text(head + source + TRAINING + rest.partition("\n")[2])
    (recipe.folder / "local/two.sh").write_text('#!/usr/bin/env bash\nset -e\n. ./later\ncp "$1" "$2"\n')
    (recipe.folder / "later").touch()
    return recipe


def put(folder, words: str) -> None:
    """What a training in the folder has written."""
    (folder / "dump/model/words").write_text(words)


@pytest.mark.parametrize("host", ["another-node", None])
def test_a_run_that_was_killed_with_its_node(training, host):
    """Its record says that it runs, there: nobody is left who holds the lock, and its checkpoint counts."""
    (training.folder / "later").write_text("kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)")  # the driver
    training(code=-9)
    put(training.folder, "of the first run")
    file = training.folder / "exp/.stages/02_two.json"
    record = json.loads(file.read_text())
    assert record["state"] == "running"
    file.write_text(json.dumps(record | ({"host": host} if host else {})))
    (training.folder / "later").write_text("")
    assert "resume=true" in training()
    assert (training.folder / "dump/model/words").read_text() == "of the first run"


@pytest.mark.parametrize("end", ["exit 75", "kill -9 $PPID; sleep 5"])
def test_a_run_that_ended_before_its_training_began(training, end):
    """With other options than the experiment that is there, which the run after it must not go on with."""
    training()
    put(training.folder, "of other options")
    (training.folder / "conf/a.yaml").write_text("a: 3\n")
    training.hook(end)
    process = training.start()
    process.communicate(timeout=300)
    assert process.returncode in (75, -9)
    assert (training.folder / "dump/model/words").exists()
    training.hook("")
    (training.folder / "later").write_text("exit 75")
    assert "moved to dump/.old/model.1" in training(code=75)
    put(training.folder, "its own")
    (training.folder / "later").write_text("")
    assert "moved to" not in training()
    assert (training.folder / "dump/model/words").read_text() == "its own"


def test_who_would_put_a_run_aside_is_told_before(training):
    (training.folder / "later").write_text("exit 75")
    training(code=75)
    put(training.folder, "of the first run")
    moved = "# dump/model holds a run that would be moved to dump/.old first"
    (training.template / "conf/a.yaml").write_text("# why\na: 1  # a comment is no other option\n")
    assert "changed" not in training.why("two") and moved not in training("--dry_run")
    (training.folder / "conf/a.yaml").write_text("a: 3\n")
    assert "; changed since, so that --resume auto begins anew: conf/a.yaml changed" in training.why("two")
    assert moved in training("--dry_run") and moved not in training("--dry_run", "--resume", "true")
    (training.folder / "later").write_text("")
    assert "moved to" not in training("--resume", "true")
    assert (training.folder / "dump/model/words").read_text() == "of the first run"


@pytest.mark.parametrize("option", [["--force"], ["--resume", "false"]])
def test_anew_is_said_to_the_first_run_of_a_job(training, option):
    """A submitted job is run again with the same words: each run would begin from scratch."""
    training()
    put(training.folder, "before the job")
    job = {"ESPNET_EXT_STAGE_JOB": "7"}
    (training.folder / "conf/a.yaml").write_text("a: 3\n")
    (training.folder / "later").write_text("exit 75")
    printed = training(*option, code=75, SLURM_RESTART_COUNT="0", **job)
    assert "moved to dump/.old/model.1" in printed
    put(training.folder, "in the job")
    printed = training(*option, code=75, SLURM_RESTART_COUNT="1", **job)
    assert "stage 1 one: done (" in printed and "moved to" not in printed
    (training.folder / "later").write_text("")
    printed = training(*option, SLURM_RESTART_COUNT="2", **job)
    assert "moved to" not in printed and (training.folder / "dump/model/words").read_text() == "in the job"
    # Another job that was put back into the queue once, before it began.
    other = {"ESPNET_EXT_STAGE_JOB": "8", "SLURM_RESTART_COUNT": "1"}
    printed = training(*option, **other)
    assert ("moved to" in printed) == (option == ["--force"])


def test_several_signals_at_once_leave_time_to_save(training):
    """The end of a login shell reaches a driver directly, and through the driver of a matrix."""
    (training.folder / "later").write_text(
        "trap 'sleep 0.3; echo saved >>saved; exit 75' TERM; touch up; while true; do sleep 0.05; done"
    )
    process = training.start()
    wait = time.monotonic() + 300
    while not (training.folder / "up").exists():
        assert time.monotonic() < wait and process.poll() is None
        time.sleep(0.05)
    for number in (signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)  # a pause between them might become as long as between two wishes
    printed = "".join(process.communicate(timeout=300))
    assert process.returncode == 75, printed
    assert (training.folder / "saved").read_text() == "saved\n"


def test_each_training_of_a_stage_is_seen_to_move_on(real_template):  # noqa: F811
    """Else a job that saves, but not in the folder that is looked at, is given up after three runs."""
    stages = load_stages(real_template / "stages")
    trainings = [stage for stage in stages if "${train_cmd}" in stage.code()]
    assert len(trainings) >= 8
    for stage in [*trainings, *(stage for stage in stages if stage.grows)]:
        text = stage.file.read_text()
        values = {name: f"exp/{name}" for name in re.findall(r"\$\{(\w+)", text)}
        assert len(progress_of([stage], values)) == 1, stage
    values = {f"{name}_exp": name for name in ("pretrain", "lm", "masked_lm", "bestrq")}
    found = progress_of([stage for stage in trainings if stage.number == 6], values)
    assert set(found) == {f"{name}/checkpoint.pth" for name in values.values()}
    words = ["python", "-m", "espnet_ext.bin.lm_targets", "--out_dir", "x"]
    assert checkpoints_of(words) == ["x/index.txt"]


@pytest.mark.parametrize("moves", [True, False])
def test_a_dump_that_gets_further_is_not_given_up(tmp_path, moves):
    """Each run of the job is interrupted; some leave one more part of what is to be computed."""
    folder = tmp_path / "it's a [dump]"
    script = 'mkdir -p "$0/a/shards/$1" && touch "$0/a/shards/$1/index"; exit 75'
    words = ["sh", "-c", script if moves else "exit 75", folder, "restart"]
    pattern = str(folder).replace("[", "\\[") + "/*/shards/*/index"
    statuses = []
    for restart in range(5):
        request = parse_request([str(tmp_path / "x.log"), *map(str, words[:-1]), str(restart)])
        if not restart:
            job = JobFolder.create(request, "cpu", threads=1, progress={1: [pattern]}, again=True)
        (job.path / "words").write_bytes(b"".join(word.encode() + b"\0" for word in request.command))
        environment = {"PATH": "/bin:/usr/bin", "SLURM_RESTART_COUNT": str(restart), "SLURM_JOB_ID": "1"}
        done = subprocess.run(["bash", JOB_SH, job.path, "1"], cwd=tmp_path, env=environment)
        statuses.append(done.returncode)
    assert statuses == ([75] * 5 if moves else [75, 75, 75, 1, 1])
