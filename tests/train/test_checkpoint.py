"""Checkpoints: cut, flipped, without their list, with a full disk under them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train import checkpoint
from espnet_ext.train.checkpoint import CHECKSUMS, NAME, PREVIOUS


def state(step: int) -> dict:
    return {"step": step, "x": torch.full((1000,), float(step))}


@pytest.fixture
def two(tmp_path):
    """Folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        checkpoint.save(state(step), tmp_path)
    return tmp_path


def test_newest_and_previous_are_kept(two):
    checkpoint.save(state(3), two)
    assert checkpoint.load(two)["step"] == 3
    (two / NAME).unlink()
    assert checkpoint.load(two)["step"] == 2
    assert sorted(path.name for path in two.iterdir()) == [PREVIOUS, CHECKSUMS]
    assert checkpoint.load(two / "elsewhere") is None


@pytest.mark.parametrize("tenth", range(10))
def test_cut_at_every_tenth(two, tenth, capsys):
    whole = (two / NAME).read_bytes()
    (two / NAME).write_bytes(whole[: len(whole) * tenth // 10])
    assert checkpoint.load(two)["step"] == 1
    assert f"{two / NAME}: damaged" in capsys.readouterr().out


def test_one_flipped_bit_is_noticed(two):
    """Also where torch reads the file without a complaint."""
    raw = bytearray((two / NAME).read_bytes())
    raw[len(raw) // 2] ^= 1
    (two / NAME).write_bytes(raw)
    assert checkpoint.load(two)["step"] == 1


def test_both_damaged_is_an_error_and_not_a_new_beginning(two):
    for name in (NAME, PREVIOUS):
        (two / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged.*damaged.*move the folder away to start the training again"):
        checkpoint.load(two)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_checkpoint_without_the_list_is_read_with_a_warning(two, capsys, content):
    """Somebody copied the file alone."""
    (two / CHECKSUMS).unlink()
    if content is not None:
        (two / CHECKSUMS).write_bytes(content)
    assert checkpoint.load(two)["step"] == 2
    told = capsys.readouterr().out
    assert (
        told.startswith(f"warning: {two / CHECKSUMS}: is not there, or damaged: ") and told.count("\n") == 1
    )
    assert told.endswith(f"; going on from {two / NAME}\n")
    checkpoint.save(state(3), two)  # with a list of its own
    assert checkpoint.load(two)["step"] == 3 and not capsys.readouterr().out


def test_without_the_list_a_damaged_one_is_noticed_where_torch_can(two, capsys):
    (two / CHECKSUMS).unlink()
    (two / NAME).write_bytes((two / NAME).read_bytes()[:500])
    assert checkpoint.load(two)["step"] == 1
    told = capsys.readouterr().out
    assert f"{two / NAME}: damaged" in told and f"{CHECKSUMS}: is not there" in told


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("point", ["torch.save", "checksum", "link", "rename"])
def test_a_stop_anywhere_inside_saving_loses_nothing(two, monkeypatch, capsys, point, listed):
    """Nor where there was no list of checksums."""

    class Stop(BaseException):
        pass

    def stop(*_, **__):
        raise Stop

    if not listed:
        (two / CHECKSUMS).unlink()
    if point == "torch.save":
        monkeypatch.setattr(torch, "save", lambda _, file: (file.write(b"half"), stop()))
    elif point == "checksum":
        monkeypatch.setattr(checkpoint, "atomic_write_text", stop)
    elif point == "link":
        monkeypatch.setattr(checkpoint, "_link", stop)
    else:
        # Everything but the last rename is done.
        real = checkpoint._link
        monkeypatch.setattr(checkpoint, "_link", lambda *a: (real(*a), stop()))
    with pytest.raises(Stop):
        checkpoint.save(state(3), two)
    monkeypatch.undo()
    assert checkpoint.load(two)["step"] == 2
    warned = not listed and point in ("torch.save", "checksum")  # before the list was written anew
    assert ("warning" in capsys.readouterr().out) == warned
    (two / NAME).unlink()
    assert checkpoint.load(two)["step"] == (2 if point == "rename" else 1)
    checkpoint.save(state(3), two)
    assert checkpoint.load(two)["step"] == 3


def test_a_damaged_one_does_not_take_the_place_of_the_good_one(two, monkeypatch):
    """Gone on from the one before, and killed inside the next save."""
    (two / NAME).write_bytes(b"damaged")
    assert checkpoint.load(two)["step"] == 1
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if str(target).endswith(f"/{NAME}"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(state(2), two)
    monkeypatch.undo()
    assert calls and checkpoint.load(two)["step"] == 1
    checkpoint.save(state(2), two)
    checkpoint.save(state(3), two)
    (two / NAME).unlink()
    assert checkpoint.load(two)["step"] == 2


@pytest.mark.parametrize("size", [0, 300, 2000, 4200])
def test_a_disk_that_is_too_small(two, full_disk, size):
    """A real limit of the kernel, as a full disk or a quota gives: an error, and the old ones stay."""
    with full_disk(size), pytest.raises(OSError, match="File too large") as caught:
        checkpoint.save(state(3), two)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(two / NAME)
    assert checkpoint.load(two)["step"] == 2
    assert sorted(path.name for path in two.iterdir()) == sorted([NAME, PREVIOUS, CHECKSUMS])


@pytest.mark.parametrize("count", [10, 100_000])
def test_a_full_disk_is_told_in_the_systems_words(count):
    """torch's own are that a position is wrong."""
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        checkpoint.save_tensors({"x": torch.zeros(count)}, Path("/dev/full"))


def test_saves_that_fail_again_and_again_cost_no_checkpoint(two, monkeypatch):
    """A disk whose errors show when a file is flushed: both checkpoints stay good, however often."""
    real = os.fsync

    def broken(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/{NAME}"):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    for step in range(3, 9):
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint.save(state(step), two)
    assert checkpoint.load(two)["step"] == 2
    (two / NAME).unlink()
    assert checkpoint.load(two)["step"] == 1


def test_saves_that_are_killed_again_and_again_cost_no_checkpoint(two, monkeypatch):
    """Each time with the new checksum in the list already, and the file not yet under its name."""
    for step in range(3, 9):
        monkeypatch.setattr(checkpoint, "_link", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.save(state(step), two)
        monkeypatch.undo()
    assert checkpoint.load(two)["step"] == 2
    (two / NAME).unlink()
    assert checkpoint.load(two)["step"] == 1


def test_nothing_but_tensors_and_plain_values_is_read(two):
    class Code:
        def __reduce__(self):
            return print, ("executed",)

    checkpoint.save({"code": Code()}, two)
    assert checkpoint.load(two)["step"] == 2
