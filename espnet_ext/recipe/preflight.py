"""The preflight job: before hours are queued, half a minute that shows whether trainings can run."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.processes import run_through
from espnet_ext.recipe.provenance import provenance

#: Its time limit in minutes; a first start from a network disk can take a few.
LIMIT = "10"


def preflight_now(driver, folder: Path) -> int:
    """Run it and wait; returns the exit status, after showing its log."""
    code = run_through(preflight_command(driver.values, folder))
    log = folder / "preflight.log"
    if code == 0 and log.exists():
        lines = log.read_text(errors="replace").splitlines()
        print("\n".join(line for line in lines if line.startswith("preflight:")))
    return code


def submit_preflight(driver, submitter, folder: Path, jobs: Sequence[str]) -> dict:
    """Submit the job that tries out what the trainings need."""
    values = driver.values
    gpu = int(values.get("ngpu", 0))
    work = submitter.work(preflight_command(values, folder), ())
    log = f"{folder}/preflight.job.log"
    record = submitter.submit([work], log, "train", gpu=gpu, after=jobs, time_limit=LIMIT)
    return {**record, "log": f"{folder}/preflight.log"}


def preflight_command(values, folder: Path) -> list[str]:
    """The back end's command line that runs the preflight check as a training would be run."""
    folder.mkdir(parents=True, exist_ok=True)
    # Who reads this on a node sees the same disk.
    seen = secrets.token_hex(8)
    (folder / "seen").write_text(seen)
    write = [values[name] for name in ("datadir", "dumpdir", "expdir")]
    versions = [f"{name}={version}" for name, version in provenance()["versions"].items() if version]
    return [
        *("python", "-m", "espnet_ext.bin.run_slurm", "--kind", "train", "--gpu", values.get("ngpu", "0")),
        *("--time", LIMIT),
        *(f"{folder}/preflight.log", "python", "-m", "espnet_ext.bin.preflight"),
        *("--ngpu", values.get("ngpu", "0"), "--folder", str(folder), "--seen", seen),
        *("--write", *write, "--versions", *versions),
    ]
