"""What the preflight job finds before hours are queued; the processes themselves are tested on a cluster."""

import sys

import pytest

from espnet_ext.bin import preflight


@pytest.fixture
def check(tmp_path, capsys, monkeypatch):
    """Function: options → exit status and what it printed; the folder `seen` holds the word 7."""
    (tmp_path / "seen").write_text("7")
    monkeypatch.setattr(preflight, "_processes", lambda ngpu: None)

    def check(*options, folder=tmp_path):
        code = preflight.main(["--folder", str(folder), "--seen", "7", *map(str, options)])
        found = capsys.readouterr()
        return code, found.out + found.err

    return check


def test_all_is_well(check, tmp_path):
    python = f"python={'.'.join(map(str, sys.version_info[:3]))}"
    code, text = check("--write", tmp_path / "a", tmp_path / "b", "--versions", python)
    assert code == 0 and "preflight: all is well" in text
    assert not list((tmp_path / "a").iterdir())


def test_a_disk_that_the_node_does_not_see(check, tmp_path):
    code, text = check(folder=tmp_path / "login node")
    assert code == 1 and "does not see" in text and "share" in text


def test_another_disk_at_the_same_path(check, tmp_path):
    (tmp_path / "seen").write_text("8")
    code, text = check()
    assert code == 1 and "sees another" in text


def test_a_folder_that_cannot_be_written(check, tmp_path):
    (tmp_path / "file").touch()
    code, text = check("--write", tmp_path / "file/dump")
    assert code == 1 and "file/dump cannot be written on" in text


def test_another_environment(check):
    code, text = check("--versions", "python=2.7.1", "no-such-package=1.0")
    assert code == 1 and "runs another environment" in text
    assert "(not 2.7.1)" in text and "no-such-package not installed (not 1.0)" in text
