"""A target is whole or absent, and what a killed writer left behind goes with the next one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ext.errors import RUN_AGAIN, UserError, main_guard
from espnet_ext.files import atomic_dir, atomic_path, atomic_write_text, read_lines


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_of_a_failed_write_remains(tmp_path):
    atomic_write_text(tmp_path / "text", "old")
    with pytest.raises(ZeroDivisionError):
        with atomic_path(tmp_path / "text") as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError
    assert names(tmp_path) == ["text"] and (tmp_path / "text").read_text() == "old"


def test_a_full_disk_names_the_file_that_could_not_be_written(tmp_path, full_disk):
    """A write knows only that it failed, not where."""
    with full_disk(5), pytest.raises(OSError) as caught:
        atomic_write_text(tmp_path / "text", "more than five")
    assert caught.value.filename == str(tmp_path / "text") and names(tmp_path) == []
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "text"):
        (tmp_path / "absent").read_text()
    assert str(caught.value.filename) == str(tmp_path / "absent")


def test_a_full_disk_names_the_file_of_the_folder(tmp_path, full_disk):
    """Not the temporary one: by the time that somebody reads the message it is gone."""
    (tmp_path / "source").write_bytes(b"x" * 100)
    for write in (
        lambda folder: atomic_write_text(folder / "text", "more than five"),
        lambda folder: shutil.copyfile(tmp_path / "source", folder / "text"),
    ):
        with full_disk(5), pytest.raises(OSError) as caught, atomic_dir(tmp_path / "set") as folder:
            write(folder)
        assert caught.value.filename == str(tmp_path / "set" / "text")
    assert names(tmp_path) == ["source"]


def test_what_gets_its_name_is_on_the_disk_before_and_its_name_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: events.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd)
    )
    monkeypatch.setattr(os, "replace", lambda *names: events.append("rename") or replace(*names))
    atomic_write_text(tmp_path / "text", "new")
    written, renamed, folder = events
    assert written.endswith("/text") and renamed == "rename" and folder == str(tmp_path)


def test_a_target_that_cannot_be_replaced_is_named(tmp_path):
    (tmp_path / "text").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        atomic_write_text(tmp_path / "text", "a file")
    assert caught.value.filename == str(tmp_path / "text") and names(tmp_path) == ["text"]


def test_a_directory_replaces_the_one_before_as_a_whole(tmp_path):
    for content in ("a", "b"):
        with atomic_dir(tmp_path / "set") as folder:
            (folder / content).write_text(content)
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["b"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, sys; from espnet_ext.files import atomic_dir\n"
        "with atomic_dir(sys.argv[1]) as folder: (folder / 'x').write_text('x'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")])
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 1
    assert not (tmp_path / "set").exists()
    with atomic_dir(tmp_path / "set") as folder:
        (folder / "y").write_text("y")
        # a second writer does not touch the folder of one that lives
        with atomic_dir(tmp_path / "set"):
            assert folder.exists()
    assert names(tmp_path) == ["set"]


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "text").write_bytes(b"a fine\nb caf\xe9\n")
    with pytest.raises(UserError, match=r"text:2: not UTF-8 \(byte 0xe9 at column 6\)"):
        list(read_lines(tmp_path / "text"))
    (tmp_path / "wide").write_text("a caf\u00e9\n", encoding="utf-16")  # as some editors save
    with pytest.raises(UserError, match=r"wide:1: .*iconv -f UTF-16 -t UTF-8"):
        list(read_lines(tmp_path / "wide"))
    with pytest.raises(UserError, match="no such file"):
        list(read_lines(tmp_path / "absent"))


def test_how_commands_end(capsys):
    @main_guard
    def command(what):
        if isinstance(what, BaseException):
            raise what
        return what

    assert command(None) == 0 and command(RUN_AGAIN) == 75
    assert command(UserError("data/x:3: bad")) == 1
    assert command(OSError(28, os.strerror(28), "dump/x")) == 1
    assert command(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: data/x:3: bad",
        "error: dump/x: No space left on device; make room and run it again",
        "error: interrupted",
    ]
    with pytest.raises(ZeroDivisionError):  # a fault of the code keeps its traceback
        command(ZeroDivisionError())
