"""The command line of a back end."""

from pathlib import Path

import pytest

from espnet_ext.errors import UserError
from espnet_ext.launch.request import parse_request


def test_one_command_and_kaldis_options():
    request = parse_request(
        ["--mem", "4G", "--time=1:00:00", "--gpu", "1", "--num-threads", "2", "--max-jobs-run=3"]
        + ["JOB=2:5", "log/x.JOB.log", "echo", "JOB", "--mem", "JOB=1:2"]
    )
    assert (request.gpu, request.num_threads, request.max_jobs_run) == (1, 2, 3)
    assert request.ignored == {"mem": "4G", "time": "1:00:00"}
    assert list(request.numbers) == [2, 3, 4, 5] and len(request) == 4
    assert request.log_of(3) == Path("log/x.3.log")
    assert request.command_of(3) == ["echo", "3", "--mem", "3=1:2"]  # options of the command are its own


def test_without_an_array_nothing_is_replaced():
    request = parse_request(["x.log", "echo", "JOB", "JOB=1:4"])
    assert len(request) == 1 and request.command_of(1) == ["echo", "JOB", "JOB=1:4"]


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("text.JOB", "text.7"),
        ("text_JOB.gz", "text_7.gz"),
        ("split8/JOB/wav.scp", "split8/7/wav.scp"),
        ("JOB", "7"),
        ("/data/JOBS/x", "/data/JOBS/x"),
        ("/data/JOB2/x", "/data/JOB2/x"),
        ("MYJOB", "MYJOB"),
    ],
)
def test_job_is_replaced_as_a_word(word, filled):
    assert parse_request(["JOB=7", "l", "c", word]).command_of(7)[1] == filled


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "4G", "l", "c"], "unknown option --memory"),
        (["--gpu"], "--gpu needs a value"),
        (["--gpu", "two", "l", "c"], "--gpu: expected a number, found 'two'"),
        (["JOB=1:0", "l.JOB", "c"], "JOB=1:0"),
        (["JOB=0:3", "l.JOB", "c"], "JOB=0:3"),
        (["JOB=1:3", "l", "c"], "3 jobs would write this log; put JOB in its name"),
        (["JOB=1:3", "l.JOB"], "found no command"),
        ([], "found no command"),
    ],
)
def test_mistakes_are_explained(words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        parse_request(words)
