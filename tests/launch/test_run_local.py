"""The local back end as a program: logs, exit statuses, siblings, signals."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from espnet_ext.processes import ONE_WISH, start_of


@pytest.fixture
def start(repo_root, tmp_path):
    """Start the back end in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    environment.pop("OMP_NUM_THREADS", None)
    started = []

    def start(*words, **extra):
        process = subprocess.Popen(
            [sys.executable, "-m", "espnet_ext.bin.run_local", *map(str, words)],
            cwd=tmp_path,
            env={**environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()


@pytest.fixture
def run(start):
    """Run the back end to its end: exit status and output."""

    def run(*words, **extra):
        process = start(*words, **extra)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    return run


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def pids(folder):
    return [int(file.read_text()) for file in folder.glob("pid.*") if file.read_text()]


# Writes its process id, and that of a child of its own, then sleeps.
SLEEPER = "echo $$ >pid.$0; sleep 1000 & echo $! >pid.child.$0; wait"


def test_array_writes_kaldis_logs(run, tmp_path):
    code, output = run("JOB=1:3", "new folder/x.JOB.log", "sh", "-c", "echo out $0; echo err >&2", "JOB")
    assert (code, output) == (0, "")
    text = (tmp_path / "new folder/x.2.log").read_text()
    assert re.fullmatch(
        r"# sh -c 'echo out \$0; echo err >&2' 2\n# Running on \S+\n# Started at .*\n#\nout 2\nerr\n"
        r"# Accounting: time=\d+ threads=\d+\n# Ended \(code 0\) at .*, elapsed time \d+ seconds\n",
        text,
    )


def test_arguments_are_not_read_by_a_shell(run, tmp_path):
    nasty = [
        "a b",
        "$(touch evil)",
        "`touch evil`",
        "; touch evil",
        "'\"\\",
        "*",
        "",
        "ü\n\t",
        "| cat > evil",
    ]
    code, _ = run("x.log", sys.executable, "-c", "import sys; print(sys.argv[1:])", *nasty)
    assert code == 0
    assert repr(nasty) in (tmp_path / "x.log").read_text()
    assert not (tmp_path / "evil").exists()


def test_failing_job_ends_its_siblings(run, tmp_path):
    fail = "while [ ! -s pid.child.1 ]; do sleep 0.05; done; echo why; exit 3"
    script = f"if [ $0 = 2 ]; then {fail}; fi; {SLEEPER}"
    code, output = run("--max_jobs_run", "2", "JOB=1:4", "x.JOB.log", "sh", "-c", script, "JOB")
    assert code == 3
    assert "job 2 of 1 to 4 failed with status 3" in output and "x.2.log" in output and "| why" in output
    assert "1 ended, 2 not started" in output
    assert len(pids(tmp_path)) == 2
    # A child of a job dies in its own time.
    wait_for(lambda: not any(start_of(pid) for pid in pids(tmp_path)))
    assert "# Ended (code 143)" in (tmp_path / "x.1.log").read_text()
    assert not (tmp_path / "x.3.log").exists()


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("exit 75", 75, "wants to be run again"),
        ("kill -9 $$", 137, "killed by SIGKILL (out of memory?"),
        ("exit 1", 1, "the job failed with status 1"),
    ],
)
def test_status_is_the_jobs(run, script, code, message):
    found, output = run("x.log", "sh", "-c", script)
    assert found == code and message in output


def test_command_that_does_not_start(run, tmp_path):
    (tmp_path / "script").write_text("echo hello\n")
    assert run("x.log", "./script")[0] == 127
    assert "chmod +x" in (tmp_path / "x.log").read_text()
    (tmp_path / "script").chmod(0o755)
    assert run("x.log", "./script")[0] == 127
    assert "#!/usr/bin/env bash" in (tmp_path / "x.log").read_text()
    code, output = run("x.log", "no-such-program")
    assert code == 127 and "No such file" in output


def test_log_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    code, output = run("file/x.log", "true")
    assert code == 1 and output.startswith("error: ") and "file" in output


def test_previous_log_is_kept(run, tmp_path):
    run("x.log", "echo", "first")
    run("x.log", "echo", "second")
    assert "first" in (tmp_path / "x.log.prev").read_text()
    assert "second" in (tmp_path / "x.log").read_text()


def test_at_most_so_many_at_a_time(run, tmp_path):
    # Each job counts the marks of those that run beside it. The first one waits for a second, however slow
    # that starts; then there is time for a third one.
    wait = "while [ $(ls ran.* | wc -l) -lt 2 ]; do sleep 0.05; done; sleep 0.5"
    script = f"touch run.$0 ran.$0; {wait}; ls run.* | wc -l >count.$0; rm run.$0"
    assert run("--max_jobs_run", "2", "JOB=1:6", "x.JOB.log", "sh", "-c", script, "JOB")[0] == 0
    counts = [int(file.read_text()) for file in tmp_path.glob("count.*")]
    assert len(counts) == 6 and max(counts) == 2


def test_threads_are_shared_or_as_asked(run, tmp_path):
    script = "echo threads=$OMP_NUM_THREADS"

    def threads():
        return re.findall(r"^threads=(.*)$", (tmp_path / "x.log").read_text(), re.M)

    run("x.log", "sh", "-c", script)
    assert threads() == [str(len(os.sched_getaffinity(0)))]
    run("--num_threads", "3", "x.log", "sh", "-c", script)
    assert threads() == ["3"]
    run("x.log", "sh", "-c", script, OMP_NUM_THREADS="5")
    assert threads() == ["5"]


def test_each_job_has_its_own_gpus(run, tmp_path):
    devices = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    run(
        "--gpu",
        "2",
        "JOB=1:3",
        "x.JOB.log",
        "sh",
        "-c",
        "echo gpus=$CUDA_VISIBLE_DEVICES; sleep 0.1",
        **devices,
    )
    found = [re.search("^gpus=(.*)", (tmp_path / f"x.{n}.log").read_text(), re.M)[1] for n in (1, 2, 3)]
    assert set(found[:2]) == {"0,1", "2,3"} and found[2] in found[:2]
    code, output = run("--gpu", "1", "x.log", "true", CUDA_VISIBLE_DEVICES="")
    assert code == 1 and "--ngpu 0" in output


def test_sigterm_goes_to_the_jobs_once_and_status_75_comes_back(start, tmp_path):
    script = "trap 'echo saved >>saved; exit 75' TERM; touch up; while true; do sleep 0.05; done"
    process = start("x.log", "sh", "-c", script)
    wait_for(lambda: (tmp_path / "up").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 75
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_second_signal_kills(start, tmp_path):
    script = "trap 'touch told' TERM; echo $$ >pid.1; while true; do sleep 0.05; done"
    process = start("x.log", "sh", "-c", script)
    wait_for(lambda: pids(tmp_path))
    process.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "told").exists)
    time.sleep(ONE_WISH + 0.01)  # from the moment at which the back end has had the first one
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 143
    assert start_of(pids(tmp_path)[0]) is None


def test_jobs_die_with_the_back_end(start, tmp_path):
    process = start("x.log", "sh", "-c", "echo $$ >pid.1; exec sleep 1000")
    wait_for(lambda: pids(tmp_path))
    process.kill()
    process.wait()
    wait_for(lambda: start_of(pids(tmp_path)[0]) is None)


def test_many_jobs_all_run_once(run, tmp_path):
    code, _ = run("--max_jobs_run", "8", "JOB=1:60", "logs/x.JOB.log", "sh", "-c", "echo $0 >>ran", "JOB")
    assert code == 0
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(1, 61))
    assert all("(code 0)" in file.read_text() for file in (tmp_path / "logs").iterdir())
