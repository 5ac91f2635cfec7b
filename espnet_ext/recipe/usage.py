"""What rows of a matrix have used: a line at the begin of each run and one at its end."""

import json
import os
import time
from pathlib import Path


class Usage:
    """Context that notes a run of a row."""

    def __init__(self, expdir: Path, row: str, gpus: int):
        """Say whose."""
        self.file = usage_file(expdir, row)
        self.gpus = gpus

    def __enter__(self) -> "Usage":
        self.begin = time.time()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._write({"begin": self.begin, "gpus": self.gpus, "job": os.environ.get("SLURM_JOB_ID", "")})
        return self

    def __exit__(self, *_) -> None:
        self._write({"begin": self.begin, "gpus": self.gpus, "end": time.time()})

    def _write(self, line: dict) -> None:
        with open(self.file, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def usage_file(expdir: Path, row: str) -> Path:
    """Where a row's runs are noted."""
    return expdir / ".matrix" / "usage" / f"{row}.jsonl"


def hours(file: Path) -> tuple[float, float, int]:
    """(hours, GPU hours, runs that were killed and whose length is not known) of a row."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return 0.0, 0.0, 0
    ended = {line["begin"]: line for line in lines if "end" in line}
    begun = {line["begin"] for line in lines}
    spent = [(line["end"] - line["begin"], line["gpus"]) for line in ended.values()]
    total = sum(seconds for seconds, _ in spent) / 3600
    return total, sum(seconds * gpus for seconds, gpus in spent) / 3600, len(begun - set(ended))
