"""Rows of measurements: what was measured, by which command, at which commit, on which machine."""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))  # benchmarks run from a clone that need not be installed


def machine() -> str:
    """The processor and the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The short hash of the commit, with ``+`` where tracked code differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "espnet_ext")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def record(benchmark: str, system: str, **figures) -> None:
    """Append one row to ``results/<benchmark>.jsonl`` and print it."""
    row = {
        "system": system,
        **figures,
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / f"{benchmark}.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def timed(*commands: list[str], cwd: Path, **environment: str) -> tuple[float, float]:
    """Run commands side by side to the end of the last.

    Returns:
        Seconds of wall clock, process start included, and seconds of processor time of all its processes.
    """
    before, start = os.times(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": log}
        running = [
            subprocess.Popen(each, cwd=cwd, env=os.environ | environment, **pipes) for each in commands
        ]
        statuses = [process.wait() for process in running]
        wall, after = time.perf_counter() - start, os.times()
        if any(statuses):
            log.seek(0)
            sys.exit(f"{shlex.join(commands[0])} ended with {statuses}:\n{log.read()[-4000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu
