"""Room for what a stage is about to write, on the disk and in the quota, before hours are spent."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import human
from espnet_ext.recipe.stages import Stage

#: What a training keeps, in checkpoints: two, one being written, and ten models of a third of its size.
CHECKPOINTS = 7
#: Audio files whose size is asked for; of more, the mean counts.
SAMPLE = 500


def check_room(stage: Stage, values: Mapping[str, str]) -> None:
    """Refuse to start a stage that cannot end.

    Raises:
        UserError: there is less room than the stage needs, as far as that can be known before.
    """
    needs = {"features": _features, "pretrain": _training, "finetune": _training}.get(stage.name)
    if needs is None or stage.part:
        return
    folder = Path(values["dumpdir" if stage.name == "features" else "expdir"])
    needed = needs(values)
    free, what = room(folder)
    if needed > free:
        raise UserError(
            f"{stage} writes about {human(needed)} to {folder}, and {what} leaves {human(free)}. "
            "Make room, or put its output elsewhere (--dumpdir, --expdir)"
        )


def room(folder: Path) -> tuple[float, str]:
    """Bytes that may be written to a folder, and what sets that limit: the disk or a quota."""
    while not folder.exists():
        folder = folder.absolute().parent
    free, what = float(shutil.disk_usage(folder).free), "the disk"
    for command, pattern in (
        # Kilobytes: used, (soft) quota, limit. Lustre, then what Debian's `quota` knows.
        (["lfs", "quota", "-q", "-u", str(os.getuid()), str(folder)], r"^\s*\S+\s+(\d+)\*?\s+(\d+)\s+(\d+)"),
        (["quota", "-w", "-p", "-f", str(folder)], r"^\s*/\S*\s+(\d+)\*?\s+(\d+)\s+(\d+)"),
    ):
        if not shutil.which(command[0]):
            continue
        try:
            text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        for used, soft, hard in re.findall(pattern, text, re.M):
            limit = int(hard) or int(soft)
            if limit and (left := max(0.0, 1024.0 * (limit - int(used)))) < free:
                free, what = left, f"your quota ({command[0]})"
    return free, what


def _features(values: Mapping[str, str]) -> float:
    """Size of the audio, twice: compressed audio grows."""
    names = ("pretrain_data", "train_data", "valid_set", "test_sets", "unlabelled_set")
    sets = {name for option in names for name in values.get(option, "").split()}
    return 2.0 * sum(_audio(Path(values["datadir"], name, "wav.scp")) for name in sets)


def _audio(scp: Path) -> float:
    try:
        lines = scp.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0.0  # the stage says what is wrong with it
    sizes = []
    for line in lines[:: max(1, len(lines) // SAMPLE)]:
        path = line.partition(" ")[2].strip()
        if os.path.isfile(path):
            sizes.append(os.path.getsize(path))
    return sum(sizes) / len(sizes) * len(lines) if sizes else 0.0


def _training(values: Mapping[str, str]) -> float:
    """As much as the largest training of this folder takes, else nothing that is known."""
    sizes = [path.stat().st_size for path in Path(values["expdir"]).glob("*/checkpoint.pth")]
    return CHECKPOINTS * float(max(sizes, default=0))
