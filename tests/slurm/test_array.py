"""Arrays on a real cluster: success, failure, exact statuses, names that a shell would break, signals."""

import itertools
import os
import re
import signal
import subprocess
import time

import pytest

from espnet_ext.processes import start_of
from tests.slurm.conftest import queue, slurm, wait_for

#: Started with the first test, so that they need not be waited for.
pytestmark = pytest.mark.usefixtures("limited")
NASTY = [
    "a b",
    "$(touch evil)",
    "`touch evil`",
    "; touch evil",
    "'\"\\",
    "*",
    "",
    "ü\n\t",
    "|cat >evil",
    "%j",
]


def test_array_writes_kaldis_logs(run, tmp_path):
    code, output = run("JOB=2:4", "new folder/x.JOB.log", "sh", "-c", "echo out $0; echo err >&2", "JOB")
    assert (code, output) == (0, "")
    text = (tmp_path / "new folder/x.3.log").read_text()
    assert re.fullmatch(
        r"# sh -c 'echo out \$0; echo err >&2' 3\n# Running on \S+\n# Started at .*\n#\nout 3\nerr\n"
        r"# Accounting: time=\d+ threads=\d+\n# Ended \(code 0\) at .*, elapsed time \d+ seconds\n",
        text,
    )
    assert not (tmp_path / "new folder/x.1.log").exists()


def test_arguments_are_not_read_by_a_shell(run, tmp_path):
    """In arguments, in the log's name, and in the folder where all happens; one that is not UTF-8, too."""
    raw = os.fsdecode(b"caf\xe9")
    code, output = run("it's; $(touch evil)/JOB x.JOB.log", "python", "-c", SHOW, *NASTY, raw)
    assert code == 0, output
    text = (tmp_path / "it's; $(touch evil)/JOB x.JOB.log").read_text()
    assert repr([*NASTY, raw]) in text
    code, output = run("JOB=1:2", "it's; $(touch evil) %A.JOB.log", "python", "-c", SHOW, *NASTY, "JOB")
    assert code == 0, output
    assert repr([*NASTY, "2"]) in (tmp_path / "it's; $(touch evil) %A.2.log").read_text()
    assert not list(tmp_path.rglob("evil"))


SHOW = "import sys; print(sys.argv[1:])"


@pytest.mark.parametrize("more", ["", "a\\b"])  # Slurm reads % and backslashes in its own way
def test_a_folder_with_a_nasty_name(tmp_path, environment, more):
    folder = tmp_path / f"it's; $(touch evil) `x` %j{more}"
    folder.mkdir()
    command = ["python", "-m", "espnet_ext.bin.run_slurm", "JOB=1:2", "JOB.log", "sh", "-c", "pwd"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    assert str(folder) in (folder / "2.log").read_text().splitlines()


def test_failing_job_ends_its_siblings(run, tmp_path):
    script = "if [ $0 = 2 ]; then sleep 1; echo why; exit 3; fi; sleep 1000"
    code, output = run("JOB=1:4", "x.JOB.log", "sh", "-c", script, "JOB")
    assert code == 3
    assert "job 2 of 1 to 4 failed with status 3" in output and "x.2.log" in output and "| why" in output
    assert "its siblings: 3 ended" in output
    assert not queue("x.JOB")


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("kill -9 $$", 137, "killed by SIGKILL"),
        ("kill -15 $$", 143, "killed by SIGTERM"),
        ("exit 1", 1, "failed with status 1"),
        ("exit 255", 255, "failed with status 255"),
    ],
)
def test_statuses_are_exact(run, script, code, message):
    found, output = run("x.log", "sh", "-c", script)
    assert found == code and message in output


def test_command_that_does_not_exist(run):
    code, output = run("x.log", "no-such-program")
    assert code == 127 and "not found" in output


def test_memory_is_named(run, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.yaml").write_text("cpu: {mem: 50M}\n")
    greedy = "x = bytearray(300 * 2**20)\nimport time; time.sleep(1000)"
    code, output = run("x.log", "python", "-c", greedy)
    assert code == 137 and "ran out of memory: ask for more (mem in conf/slurm.yaml" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_what_was_submitted(start, tmp_path, number):
    process = start("JOB=1:40", "x.JOB.log", "sleep", "1000")
    wait_for(lambda: "RUNNING" in queue("x.JOB"))
    process.send_signal(number)
    assert process.wait(200) == 143
    assert not queue("x.JOB")


def test_jobs_end_with_the_back_end(start, tmp_path):
    """The shell that started it may die: nothing runs on unseen."""
    inner = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    outer = subprocess.Popen(
        ["python", "-c", inner, "python", "-m", "espnet_ext.bin.run_slurm", "orphan.log", "sleep", "1000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(os.getcwd())},
    )
    wait_for(lambda: "RUNNING" in queue("orphan"))
    outer.kill()
    outer.wait()
    wait_for(lambda: not queue("orphan"))


def test_what_a_killed_run_leaves_ends_before_the_next_begins(start, run, tmp_path):
    """`kill -9` leaves no time to cancel. Two jobs beside each other would be two trainings in one folder."""
    script = (
        "mkdir alone || exit 9; trap 'rmdir alone; exit 75' TERM; "
        "if [ -e first ]; then rmdir alone; exit 0; fi; touch first; while true; do sleep 0.1; done"
    )
    process = start("x.log", "sh", "-c", script)
    wait_for(lambda: (tmp_path / "first").exists())
    process.kill()
    process.wait()
    assert queue("x.") == ["RUNNING"]
    code, output = run("x.log", "sh", "-c", script)
    assert code == 0 and "left by a run that was killed" in output, output
    assert not (tmp_path / "alone").exists() and not queue("x.")


def test_at_most_so_many_at_a_time(run, tmp_path):
    # The first one waits for a second, however slow that starts; then there is time for a third one.
    wait = "while [ $(ls ran.* | wc -l) -lt 2 ]; do sleep 0.1; done; sleep 1"
    script = f"touch run.$0 ran.$0; {wait}; ls run.* | wc -l >count.$0; rm run.$0"
    assert run("--max_jobs_run", "2", "JOB=1:6", "x.JOB.log", "sh", "-c", script, "JOB")[0] == 0
    counts = [int(file.read_text()) for file in tmp_path.glob("count.*")]
    assert len(counts) == 6 and max(counts) == 2


@pytest.mark.slow
def test_a_thousand_jobs_all_run_once(run, tmp_path):
    """More than the cluster's MaxArraySize: split; one of them fails at the end, with its own status."""
    # Their statuses, which they leave once their logs are complete.
    others = "while [ $(ls logs/q/*/done | wc -l) -lt 999 ]; do sleep 0.5; done"
    script = f"echo $0 >>ran.$0; if [ $0 = 1000 ]; then {others}; exit 7; fi"
    code, output = run("JOB=1:1000", "logs/x.JOB.log", "sh", "-c", script, "JOB", timeout=1800)
    assert code == 7 and "job 1000 of 1 to 1000 failed with status 7" in output
    ran = sorted(int(line) for file in tmp_path.glob("ran.*") for line in file.read_text().split())
    assert ran == list(range(1, 1001))
    ends = [file.read_text().count("(code 0)") for file in (tmp_path / "logs").glob("x.*.log")]
    assert sum(ends) == 999


@pytest.mark.slow
def test_controller_restarts_and_squeue_fails_in_mid_job(start, tmp_path):
    """Neither ends a job nor invents an end; what is submitted meanwhile waits for the controller."""
    state = os.path.dirname(os.environ["SLURM_CONF"])
    script = "echo $0 >>ran.$0; while [ ! -e go ]; do sleep 0.2; done"
    process = start("JOB=1:3", "x.JOB.log", "sh", "-c", script, "JOB")
    wait_for(lambda: len(list(tmp_path.glob("ran.*"))) == 3)
    with open(f"{state}/slurmctld.pid") as handle:
        controller = int(handle.read())
    os.kill(controller, signal.SIGTERM)
    wait_for(lambda: start_of(controller) is None)
    try:
        later = start("later.log", "echo", "here")
        # Long enough that both have asked in vain.
        with pytest.raises(subprocess.TimeoutExpired):
            later.wait(14)
        assert process.poll() is None
    finally:
        path = f"{os.environ['PATH']}:/usr/sbin"
        subprocess.run(["slurmctld"], env={**os.environ, "PATH": path}, check=True)
    (tmp_path / "go").touch()
    assert process.wait(600) == 0
    assert later.wait(600) == 0
    assert all(file.read_text().split() == [file.suffix[1:]] for file in tmp_path.glob("ran.*"))
    assert (tmp_path / "later.log").read_text().count("\nhere\n") == 1
    assert not (tmp_path / "later.log.prev").exists()


def test_slurm_refuses_and_says_what_to_change(run, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.yaml").write_text("partition: gpu\n")
    code, output = run("x.log", "true")
    assert code == 1 and "partition gpu: this cluster has" in output and "main" in output
    (tmp_path / "conf/slurm.yaml").write_text("mem: 900G\n")
    code, output = run("x.log", "true")
    assert code == 1 and "no node has this many" in output


def test_gpus_kaldis_conf_and_path_sh(run, tmp_path):
    """Each way to ask; the job sees its own GPU, and the environment that path.sh makes."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "path.sh").write_text('export FROM_PATH_SH="it\'s set"\n')
    (tmp_path / "conf/slurm.conf").write_text(
        "# Kaldi's\ncommand sbatch --export=PATH --ntasks-per-node=1\noption time=* --time $0\n"
        "option mem=* --mem $0\ndefault gpu=0\noption gpu=0 -p main\noption gpu=* -p urgent --gres=gpu:$0\n"
    )
    script = 'echo "partition=$SLURM_JOB_PARTITION gpus=$CUDA_VISIBLE_DEVICES $FROM_PATH_SH"'
    assert run("--gpu", "1", "x.log", "sh", "-c", script)[0] == 0
    assert "partition=urgent gpus=0 it's set" in (tmp_path / "x.log").read_text()
    assert run("x.log", "sh", "-c", script)[0] == 0
    assert "partition=main gpus= it's set" in (tmp_path / "x.log").read_text()
    for way in ("--gres=gpu:{}", "--gpus={}", "--gpus-per-node={}"):
        (tmp_path / "conf/slurm.yaml").write_text(f"gpu: '{way}'\n")
        code, output = run("--gpu", "2", "x.log", "sh", "-c", script, kind="decode")
        assert code == 0, output
        assert "partition=main gpus=0,1 it's set" in (tmp_path / "x.log").read_text()


def test_the_queue_is_asked_seldom(run, tmp_path, environment):
    """Two calls of squeue in an array's first 20 seconds, whatever the number of jobs; nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "sacct", "scontrol", "sbatch"):
        real = slurm("which", name).strip() if name != "sacct" else "/bin/false"
        (folder / name).write_text(f'#!/bin/sh\necho {name} >>"{tmp_path}/calls"\nexec {real} "$@"\n')
        (folder / name).chmod(0o755)
    path = f"{folder}:{environment['PATH']}"
    begin = time.monotonic()
    assert run("JOB=1:60", "x.JOB.log", "sh", "-c", "[ $0 != 7 ] || sleep 7", "JOB", PATH=path)[0] == 0
    seconds = time.monotonic() - begin
    # Numbers of its own: a back end that asks more often is a burden to everybody's controller.
    pauses = [min(30.0, 5.0 * 1.5**number) for number in range(1000)]
    most = sum(end < seconds for end in itertools.accumulate(pauses))
    calls = (tmp_path / "calls").read_text().split()
    assert 1 <= calls.count("squeue") <= most and calls.count("sbatch") == 1
    assert calls.count("scontrol") <= 1 and "sacct" not in calls


@pytest.mark.slow
def test_time_limit_is_named(limited):
    output, _ = limited.communicate(timeout=600)
    assert limited.returncode == 143, output
    assert "ran into its time limit: ask for more (time in conf/slurm.yaml" in output
