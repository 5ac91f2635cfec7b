"""The back end that waits, with a cluster that is slow, full, or away."""

import os
import signal
import subprocess
import sys
import time

import pytest

from espnet_ext.launch import cluster as real
from espnet_ext.launch import slurm
from espnet_ext.launch.cluster import Ended, Full, Queued
from espnet_ext.launch.ends import meaning
from espnet_ext.launch.jobfolder import JOB_SH, JobFolder
from espnet_ext.launch.request import parse_request
from espnet_ext.launch.settings import Plan


class Cluster:
    """Takes so many jobs at a time and `runs` them, if they are `late` when it has been asked so often."""

    def __init__(self, runs, size=1000, most=1000, ended=None, rows=(), late=0):
        self.runs, self.size, self.most, self.state = runs, size, most, ended
        self.submitted, self.cancelled = [], []
        self.rows, self.late, self.questions, self.later = rows, late, 0, []

    def array_size(self):
        return self.size

    def submit(self, arguments, name, stopped):
        array = next((word for word in arguments if word.startswith("--array=")), "--array=0-0")
        count = int(array.partition("-0-")[2] or array.split("=0-")[1]) + 1
        if count > self.most:
            raise Full("job submit limit")
        self.submitted.append(count)
        self.later.append((int(arguments[-2] if arguments[-1] == "array" else arguments[-1]), count))
        self.run_what_is_due()
        return str(len(self.submitted))

    def queue(self, names):
        self.questions += 1
        self.run_what_is_due()
        return list(self.rows)

    def run_what_is_due(self):
        while self.later and self.questions >= self.late:
            self.runs(*self.later.pop())

    def ended(self, job, index):
        return self.state

    def cancel(self, jobs):
        self.cancelled += jobs
        return True


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Function: (words, cluster's options) → status, cluster; jobs leave their status, or do not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "FIRST_POLL", 0.1)

    def run(*words, leave=True, **options):
        # A status that comes is waited for, however slow this machine.
        monkeypatch.setattr(slurm, "SLOW_DISK", 1000.0 if leave else 1.5)
        request = parse_request([*words, "true"])
        plan = Plan((), 1, 1, (), True, True, "", 3)
        folder = JobFolder.create(request, "cpu", threads=1)

        def runs(first, count):
            for number in range(first, first + count) if leave else ():
                (folder.path / "done" / str(number)).write_text(f"0 node 1 {number} {number}\n")

        cluster = Cluster(runs, **options)
        return slurm.SlurmRun(request, plan, folder, cluster).run(), cluster

    return run


def test_a_status_that_shows_late_is_waited_for(run):
    """The queue is empty and Slurm says COMPLETED, and the disk needs a while to show it."""
    code, cluster = run("x.log", late=4, ended=Ended("COMPLETED", 0))
    assert code == 0 and cluster.questions == 4
    code, cluster = run("JOB=1:3", "x.JOB.log", late=4)
    assert code == 0 and cluster.questions == 4


def test_a_job_that_is_gone_without_a_status(run, capsys):
    assert run("x.log", leave=False)[0] == 1
    assert "left the queue without a status" in capsys.readouterr().err
    assert run("x.log", leave=False, ended=Ended("NODE_FAIL", 1))[0] == 75
    assert "lost its node; run it again" in capsys.readouterr().err


def test_a_job_that_waits_for_a_person(run, capsys):
    """A time limit that no partition allows: Slurm takes the job, and never starts it."""
    reasons = ("PartitionTimeLimit", "Resources", "PartitionTimeLimit")
    rows = [
        Queued("1", frozenset({i}), "PENDING", reason, "", "0:00", "x") for i, reason in enumerate(reasons)
    ]
    assert run("JOB=1:3", "x.JOB.log", late=3, rows=rows)[0] == 0
    told = capsys.readouterr().err
    assert told.count("does not start by itself: PartitionTimeLimit") == 1 and "Resources" not in told


def test_arrays_are_split(run):
    """By the cluster's MaxArraySize, and by how many jobs the site takes."""
    code, cluster = run("JOB=1:25", "x.JOB.log", size=10)
    assert code == 0 and cluster.submitted == [10, 10, 5]
    code, cluster = run("JOB=1:20", "x.JOB.log", most=6)
    assert code == 0 and sum(cluster.submitted) == 20 and max(cluster.submitted) <= 6


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Function: (name=script...) puts shell scripts in the place of programs."""

    def programs(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return programs


def test_a_controller_that_is_away_while_submitting(tmp_path, monkeypatch, capfd):
    """It tries again; a job that was taken without an acknowledgement is not submitted twice."""
    calls = tmp_path / "calls"
    (tmp_path / "sbatch").write_text(
        f'#!/bin/sh\necho x >>{calls}\necho "sbatch: error: Unable to contact slurm controller" >&2\nexit 1\n'
    )
    squeue = '[ $(wc -l <calls) = 2 ] && case "$*" in *--states=all*) echo 77 ;; esac'
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    for name in ("sbatch", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert real.Cluster().submit(["job.sh"], "x.1") == "77"
    assert calls.read_text() == "x\nx\n"
    assert capfd.readouterr().err.count("Slurm does not answer") == 1


def test_ctrl_c_while_the_controller_is_away(programs):
    """Nobody has to wait until Slurm answers, or gives up."""
    programs(sbatch='echo "sbatch: error: Socket timed out" >&2; exit 1', squeue="exit 1")
    begin = time.monotonic()
    with pytest.raises(real.Stopped):
        real.Cluster().submit(["job.sh"], "x.1", lambda: time.monotonic() > begin + 0.5)
    assert time.monotonic() < begin + real.PATIENCE / 2


def test_a_sites_banner(programs):
    """Words that a site's wrapper prints among Slurm's own."""
    row = "77|0-4%2|PENDING|Resources||0:00|x.1"
    programs(
        sbatch="echo Welcome to the cluster; echo '77;local'",
        squeue=f"echo Maintenance on Monday; echo '{row}'",
    )
    assert real.Cluster().submit(["job.sh"], "x.1") == "77"
    (found,) = real.Cluster().queue(["x.1"])
    assert (found.job, found.tasks, found.state) == ("77", frozenset(range(5)), "PENDING")


def test_a_log_that_the_node_cannot_write(tmp_path):
    """The status says so, and Slurm's own output why."""
    (tmp_path / "file").touch()
    request = parse_request([str(tmp_path / "file/x.log"), "true"])
    folder = JobFolder.create(request, "cpu", threads=1, root=tmp_path / "q")
    done = subprocess.run(["bash", JOB_SH, folder.path, "1"], capture_output=True, text=True)
    assert done.returncode == 1 and "file/x.log cannot be written on" in done.stderr
    assert folder.done(1).status == 1


def test_a_job_that_puts_itself_back_has_not_ended(tmp_path, programs, monkeypatch):
    """Slurm then tells all its processes to end, `scontrol` included, which may not have ended yet."""
    programs(
        scontrol=f"cd '{tmp_path}'; "
        "if [ $1 = requeue ]; then touch asked; kill $PPID $$; sleep 0.1; exit 0; fi; "
        "echo JobState=RUNNING Restarts=0"
    )
    request = parse_request([str(tmp_path / "x.log"), "sh", "-c", "exit 75"])
    folder = JobFolder.create(request, "cpu", threads=1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = subprocess.run(["bash", JOB_SH, folder.path, "1"], cwd=tmp_path)
    assert done.returncode == 75 and (tmp_path / "asked").exists()
    assert folder.done(1) is None and "# Ended" not in (tmp_path / "x.log").read_text()


@pytest.mark.parametrize(("offline", "seen"), [(True, "[1] [1]"), (False, "[] []")])
def test_the_hubs_are_offline(tmp_path, monkeypatch, offline, seen):
    """Nodes have no internet, unless conf/slurm.yaml says so."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    words = ["sh", "-c", 'echo "[$HF_HUB_OFFLINE] [$TRANSFORMERS_OFFLINE]"']
    request = parse_request([str(tmp_path / "x.log"), *words])
    folder = JobFolder.create(request, "cpu", threads=1, offline=offline)
    subprocess.run(["bash", JOB_SH, folder.path, "1"], check=True, cwd=tmp_path)
    assert seen in (tmp_path / "x.log").read_text().splitlines()


def test_no_slurm_here(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "espnet_ext.bin.run_slurm", "x.log", "true"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(slurm.__file__).rsplit("/", 3)[0]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "sbatch is not on PATH" in done.stderr


@pytest.mark.parametrize(
    ("scontrol", "sacct", "expected"),
    [
        ("echo JobId=7 JobState=TIMEOUT ExitCode=0:15", "exit 1", Ended("TIMEOUT", 143)),
        ("exit 1", "echo 'CANCELLED by 0|0:15'; echo 'x|1:0'", Ended("CANCELLED", 143)),
        ("exit 1", "echo 'OUT_OF_MEMORY|0:125'", Ended("OUT_OF_MEMORY", 253)),
        ("exit 1", "echo", None),  # not in the accounting yet
        ("exit 1", "exit 1", None),  # a site without accounting
    ],
)
def test_how_a_job_ended(tmp_path, monkeypatch, scontrol, sacct, expected):
    """The controller remembers for some minutes; after that the accounting, where there is one."""
    for name, script in (("scontrol", scontrol), ("sacct", sacct)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert real.Cluster().ended("7", None) == expected


def test_the_jobs_of_an_array_are_one_question(programs, tmp_path):
    """A thousand that end while a disk is slow must not be a thousand calls."""
    line = (
        "JobId=$((100 + i)) ArrayJobId=7 ArrayTaskId=$i JobName=x JobState=FAILED Reason=x ExitCode=$i:0 A=1"
    )
    programs(
        scontrol=f'echo x >>"{tmp_path}/calls"; i=0; '
        f'while [ $i -lt 30 ]; do echo "{line}"; i=$((i + 1)); done'
    )
    cluster = real.Cluster()
    assert [cluster.ended("7", index) for index in range(30)] == [Ended("FAILED", i) for i in range(30)]
    assert (tmp_path / "calls").read_text() == "x\n"


@pytest.mark.parametrize(
    ("ended", "status", "said", "told"),
    [
        (Ended("OUT_OF_MEMORY", 1), 1, "", "ran out of memory: ask for more (mem in conf/slurm.yaml"),
        (None, 137, "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch", "ran out of memory"),
        (Ended("TIMEOUT", 143), 143, "", "ran into its time limit: ask for more (time in conf/slurm.yaml"),
        (None, 143, "*** JOB 7 CANCELLED AT x DUE TO TIME LIMIT ***", "ran into its time limit"),
        (Ended("NODE_FAIL", 1), 75, "", "lost its node"),
        (Ended("PREEMPTED", 1), 75, "", "requeue: true in conf/slurm.yaml"),
        (Ended("CANCELLED", 143), 143, "", "was cancelled"),
        (None, 75, "", "wants to be run again"),
        (None, 139, "", "was killed by SIGSEGV"),
        (None, 3, "", "failed with status 3"),
    ],
)
def test_what_an_end_means(ended, status, said, told):
    assert told in meaning(ended, status, said)


class Lasting(Cluster):
    """Has a job in its queue until that one is cancelled."""

    job = "1"

    def queue(self, names):
        self.asked = list(names)
        row = Queued(self.job, None, "RUNNING", "", "node", "0:05", names[0])
        return [] if self.job in self.cancelled else [row]


class Signalled(Lasting):
    """Sends two signals when it is first asked: from here on they are waited for."""

    def queue(self, names):
        self.questions += 1
        for number in (signal.SIGTERM, signal.SIGHUP) if self.questions == 1 else ():
            os.kill(os.getpid(), number)
        return super().queue(names)


def test_several_signals_at_once_cancel(run, monkeypatch):
    """The end of a login shell reaches it directly and through the stage: nothing may stay in the queue."""
    monkeypatch.setitem(globals(), "Cluster", Signalled)
    code, cluster = run("x.log", leave=False)
    assert code == 143 and cluster.cancelled == ["1"]


class Left(Lasting):
    """The job is that of a run that was killed."""

    job = "9"

    def submit(self, arguments, name, stopped):
        assert self.cancelled == ["9"]
        return super().submit(arguments, name, stopped)


def test_what_a_killed_run_has_left_is_ended_first(run, tmp_path, monkeypatch, capsys):
    """It was to write the same log; jobs of other logs are nobody's business here."""
    for log in ("x y.log", "x_y.log", "xy.log"):
        JobFolder.create(parse_request([str(tmp_path / log), "true"]), "cpu", threads=1).mark_open("x.old")
    monkeypatch.setitem(globals(), "Cluster", Left)
    code, cluster = run("x y.log")
    assert code == 0 and cluster.submitted == [1] and cluster.asked == ["x.old"]
    assert "cancelled: 9, left by a run that was killed" in capsys.readouterr().err
    assert {file.parent.name.split(".")[0] for file in (tmp_path / "q").glob("*/open")} == {"xy", "x_y"}
    assert len(list((tmp_path / "q").glob("*/open"))) == 2
