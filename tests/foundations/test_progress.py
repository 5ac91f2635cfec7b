"""A bar in a terminal, plain lines in a log."""

import contextlib
import os
import pty
import subprocess
import sys
import termios

from espnet_ext import progress as module

CODE = """
from espnet_ext.progress import progress
for _ in progress(range(30), desc="features", unit="file"):
    pass
"""


def test_a_bar_in_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", CODE], stderr=theirs, check=True)
    os.close(theirs)
    shown = ""
    with contextlib.suppress(OSError):  # the end: nobody writes any more. It comes in pieces
        while part := os.read(ours, 10000):
            shown += part.decode()
    os.close(ours)
    assert "features: 100%" in shown and "30/30" in shown and "\r" in shown


def test_plain_lines_in_a_log(monkeypatch, capsys):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert list(module.progress(iter("abcdefgh"), total=8, desc="stats", unit="file")) == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "stats: 4/8 (50 %) file, 12 s, 0.3 file/s",
        "stats: 8/8 (100 %) file, 27 s, 0.3 file/s",
    ]


def test_nothing_to_do(capsys):
    assert list(module.progress([], desc="stats")) == []
    assert capsys.readouterr().err.count("stats: 0") == 1
