"""Data on a node's own disk: what the command reads, and when it reads the original."""

import os
import subprocess
import sys
from collections import namedtuple

import pytest

from espnet_ext.bin import stage_data
from espnet_ext.launch.request import parse_request
from espnet_ext.launch.stage import staged

SHOW = "import sys; print(sys.argv[1:])"


@pytest.fixture
def dumped(tmp_path):
    """A dumped set in a folder with a space: two utterances of audio, one of them in a path with a quote."""
    folder = tmp_path / "a dump"
    folder.mkdir()
    for name in ("a.wav", "it's b.wav"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    (folder / "wav.scp").write_text(f"u1 {tmp_path / 'a.wav'}\nu2 {tmp_path}/it's b.wav\n")
    (folder / "text").write_text("u1 hello\nu2 you\n")
    return folder


def run(dumped, place, **environment):
    command = ["python", "-c", SHOW, "--train_data_dir", str(dumped), "--name", str(dumped)]
    request = staged(parse_request(["x.log", *command]), place)
    words = [sys.executable, *request.command[1:]]
    return subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, **environment}, check=True
    ).stdout


def test_the_command_reads_the_copy(dumped, tmp_path):
    """Copied once, shared by the jobs of a node; the name elsewhere in the command stays as it is."""
    output = run(dumped, "${NODE_DISK}/data", NODE_DISK=str(tmp_path / "node disk"))
    assert "copied to" in output
    words = eval(output.splitlines()[-1])
    copy = words[1]
    assert copy.startswith(str(tmp_path / "node disk/data/a dump.")) and words[3] == str(dumped)
    lines = dict(line.split(" ", 1) for line in open(f"{copy}/wav.scp").read().splitlines())
    assert all(path.startswith(copy) for path in lines.values())
    assert open(lines["u2"], "rb").read() == b"it's b.wav" * 10
    assert open(f"{copy}/text").read() == (dumped / "text").read_text()
    again = run(dumped, "${NODE_DISK}/data", NODE_DISK=str(tmp_path / "node disk"))
    assert "copied to" not in again and eval(again.splitlines()[-1]) == words
    # Other data under the same name are another copy.
    (dumped / "text").write_text("u1 hello\nu2 you two\n")
    other = eval(run(dumped, "${NODE_DISK}/data", NODE_DISK=str(tmp_path / "node disk")).splitlines()[-1])
    assert other[1] != copy and open(f"{other[1]}/text").read().endswith("two\n")


def test_without_room_or_folder_it_reads_the_original(dumped, tmp_path, monkeypatch, capsys):
    output = run(dumped, "${NOT_SET_HERE}/data")
    assert "warning: ${NOT_SET_HERE}/data is not set on this node" in output
    assert eval(output.splitlines()[-1])[1] == str(dumped)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(stage_data.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    assert stage_data.copy_of(dumped, tmp_path / "node") is None
    assert "it is read where it is" in capsys.readouterr().out


def test_what_has_no_data_is_left_alone():
    request = parse_request(["x.log", "true"])
    assert staged(request, "/scratch") is request
