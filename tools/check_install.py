#!/usr/bin/env python3
"""Print what this machine has for the recipes, what is missing, and what that disables.

Run it with the Python that is to be checked: `tools/venv/bin/python tools/check_install.py`. It needs nothing
but the standard library, imports none of the packages it looks at, and ends with status 1 if something
required is missing.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).resolve().parent
TESTED_PYTHON = (3, 11)
ALLOWED_PYTHON = ((3, 11), (3, 12))

# Program -> (Debian package, what does not work without it).
PROGRAMS = {
    "sox": ("sox", "stage 1 of synth (audio to 16 kHz), stage 2 (speed perturbation)"),
    "espeak-ng": ("espeak-ng", "stage 1 of synth: `make demo` and the end-to-end test"),
    "sctk": ("sctk", "the test that holds our error counts against sclite's"),
    "shellcheck": ("shellcheck", "`make lint`, and with it a part of `make test`"),
}


class Row(NamedTuple):
    """A line of the table. `state`: "ok", "missing" (required), "absent" (optional) or "differs"."""

    state: str
    what: str
    found: str
    remark: str = ""


def read_pins(path: Path) -> dict[str, str]:
    """Read the `name==version` lines of a requirements file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Row:
    """Compare the running Python with those that are tested and allowed."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if running == TESTED_PYTHON:
        return Row("ok", "Python", found)
    if running in ALLOWED_PYTHON:
        return Row("differs", "Python", found, "allowed but untested; 3.11 is what the tests run with")
    return Row("missing", "Python", found, "3.11 is needed; `make setup` says how to get it")


def check_packages(pins: dict[str, str]) -> list[Row]:
    """Compare the installed packages with the pinned ones: a row for each that differs, one for the rest."""
    rows, same = [], 0
    for name, pinned in pins.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            rows.append(Row("missing", name, "-", f"pip install {name}=={pinned}"))
            continue
        if found.split("+")[0] == pinned:  # a build for another device (+cpu, +cu128) is the same version
            same += 1
        else:
            rows.append(Row("differs", name, found, f"tested with {pinned}"))
    rows.insert(0, Row("ok", "packages", f"{same} of {len(pins)} as in tools/requirements.txt"))
    try:
        rows.append(Row("ok", "espnet_ext", version("espnet_ext")))
    except PackageNotFoundError:
        command = f"pip install --no-deps --editable {TOOLS.parent}"
        rows.append(Row("missing", "espnet_ext", "-", command))
    return rows


def check_programs() -> list[Row]:
    """Look for the system's programs on PATH."""
    rows = []
    for program, (package, disables) in PROGRAMS.items():
        path = shutil.which(program)
        if path:
            rows.append(Row("ok", program, path))
        else:
            rows.append(Row("missing", program, "-", f"disables {disables}; apt-get install {package}"))
    return rows


def check_gpu() -> Row:
    """Ask the driver for GPUs, without importing torch."""
    absent = "training and decoding run on the CPU (--ngpu 0)"
    if not shutil.which("nvidia-smi"):
        return Row("absent", "GPU", "no nvidia-smi", absent)
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Row("absent", "GPU", "nvidia-smi fails", absent)
    names = [name.strip() for name in answer.splitlines() if name.strip()]
    return Row("ok", "GPU", "; ".join(names)) if names else Row("absent", "GPU", "none", absent)


def check_slurm() -> Row:
    """Look for Slurm's submission command."""
    path = shutil.which("sbatch")
    if path:
        return Row("ok", "Slurm", path)
    return Row("absent", "Slurm", "no sbatch", "jobs run on this machine (cmd_backend local)")


def check_huggingface_cache() -> Row:
    """Look for models that transformers would find without a network."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = sorted(path.name[len("models--") :].replace("--", "/") for path in cache.glob("models--*"))
    if models:
        return Row("ok", "HuggingFace cache", f"{cache}: {', '.join(models)}")
    return Row("absent", "HuggingFace cache", f"no models in {cache}", "published models need a download")


def table(rows: list[Row]) -> str:
    """Lay the rows out in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = []
    for row in rows:
        line = f"{row.state:<{widths[0]}}  {row.what:<{widths[1]}}  {row.found}"
        lines.append(line + (f"  ({row.remark})" if row.remark else ""))
    return "\n".join(lines)


def main() -> int:
    """Print the table; return the exit status."""
    rows = [check_python(), *check_packages(read_pins(TOOLS / "requirements.txt")), *check_programs()]
    rows += [check_gpu(), check_slurm(), check_huggingface_cache()]
    print(table(rows))
    missing = [row.what for row in rows if row.state == "missing"]
    if missing:
        print(f"missing: {', '.join(missing)}. `make setup` installs all of it.", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
