"""Whether there is room for what a stage writes."""

from collections import namedtuple
from pathlib import Path

import pytest

from espnet_ext.errors import UserError
from espnet_ext.recipe import room
from espnet_ext.recipe.stages import Stage

USAGE = namedtuple("usage", "total used free")
QUOTA = """\
Disk quotas for user me (uid 1):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
 /home  900     950    1000       0     12       0       0       0
"""


@pytest.fixture
def recipe(tmp_path):
    """Options of a recipe with 40 bytes of audio and a training of 1000."""
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "exp/pretrain_x").mkdir(parents=True)
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(b"x" * 10)
    lines = "".join(f"u{number} {tmp_path}/{number}.wav\n" for number in range(4))
    (tmp_path / "data/train/wav.scp").write_text(lines)
    (tmp_path / "exp/pretrain_x/checkpoint.pth").write_bytes(b"x" * 1000)
    folders = {f"{name}dir": str(tmp_path / name) for name in ("data", "dump", "exp")}
    return folders | {"pretrain_data": "train", "train_data": "train", "valid_set": "none"}


def stage(name: str) -> Stage:
    return Stage(3, name, Path("x.sh"), "")


@pytest.mark.parametrize(
    ("name", "bytes_", "sizes"),
    [("features", 80, ("80 bytes", "79 bytes")), ("finetune", 7000, ("7 kB", "7 kB"))],
)
def test_a_full_disk_is_noticed_before(recipe, monkeypatch, name, bytes_, sizes):
    monkeypatch.setattr(room.shutil, "which", lambda _: None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: USAGE(0, 0, bytes_ - 1))
    writes = f"stage 3 {name} writes about {sizes[0]} to .*, and the disk leaves {sizes[1]}. Make room"
    with pytest.raises(UserError, match=writes):
        room.check_room(stage(name), recipe)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: USAGE(0, 0, bytes_))
    room.check_room(stage(name), recipe)
    room.check_room(stage("score"), recipe)


def test_a_quota_counts(tmp_path, monkeypatch):
    """As `quota` tells it, in kilobytes; the limit, not the soft one."""
    (tmp_path / "quota").write_text(f"#!/bin/sh\ncat <<'END'\n{QUOTA}END\n")
    (tmp_path / "quota").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert room.room(tmp_path / "not/there/yet") == (100 * 1024.0, "your quota (quota)")
