"""What the Slurm back end adds: arrays of empty jobs beside `sbatch --array --wait`, a recipe beside itself.

    make slurm-up && eval "$(tools/local_slurm/cluster.sh env)"
    python benchmarks/slurm.py [--part array|recipe] [--repeats 3] [--jobs 100]

`array`: submit, wait for and collect 100 jobs that do nothing, in turns with the bare command; a row a way
with every repeat. `recipe`: `egs2/synth` with `--scale 0.02` and one epoch a training: on this machine,
through Slurm (waiting), and by `--submit` until the last job has ended, after one run that is not measured.
Both want a cluster and processors that nobody else uses.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, record

#: A recipe so small that starts are most of it.
TINY = ["--scale", "0.02", "--decode_configs", "ctc", "--nj", "2", "--inference_nj", "2"]
TINY += ["--pretrain_args", "--max_epoch 1", "--finetune_args", "--max_epoch 1", "--nbest", "1"]


def array(jobs: int, repeats: int) -> None:
    """Our back end and the bare command, in turns."""
    ways = ("sbatch --array --wait", "run_slurm JOB=1:N", "sbatch --array, squeue asked without a pause")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "empty.sh")
        script.write_text("#!/usr/bin/env bash\ntrue\n")
        bare = ["sbatch", f"--array=0-{jobs - 1}", "--wait", "--output=bare.%a.out", "--mem=10", str(script)]
        # `--wait` itself looks every ten seconds: the floor is what somebody sees who never stops looking.
        ended = 'while squeue -h -j "${job}" 2>/dev/null | grep -q .; do :; done'
        floor = [word for word in bare if word != "--wait"]
        floor = ["bash", "-c", f'job=$("$@" --parsable "{script}") && {ended}', "bash", *floor[:-1]]
        ours = [sys.executable, "-m", "espnet_ext.bin.run_slurm", "--mem", "10"]
        ours += [f"JOB=1:{jobs}", "log/x.JOB.log", "true"]
        for _ in range(repeats):
            for way, command in zip(ways, (bare, ours, floor), strict=True):
                seconds[way].append(_seconds(command, Path(folder)))
    for way, measured in seconds.items():
        each = [round(each, 2) for each in measured]
        record("slurm", way, jobs=jobs, wall_s=min(each), all_wall_s=each)


def recipe() -> None:
    """The tiny recipe three ways, each in folders of its own."""
    folder = Path(tempfile.mkdtemp(prefix="slurm_recipe"))
    try:
        home = ROOT / "egs2/synth/asr1"
        for way in ("not measured", "local", "slurm, waiting", "slurm, --submit"):
            # The way of a run is a part of no option that decides about its result.
            own = [f"--{name}dir={folder / way.replace(' ', '_') / name}" for name in ("data", "dump", "exp")]
            back_end = [] if "slurm" not in way else ["--cmd_backend", "slurm"]
            command = ["./run.sh", *TINY, *own, *back_end]
            if "--submit" in way:
                command.append("--submit")
            seconds = _seconds(command, home)
            if "--submit" in way:
                begin = time.perf_counter()
                while _queued():
                    time.sleep(0.2)
                seconds += time.perf_counter() - begin
                table = subprocess.run([*command[:-1], "--status"], cwd=home, capture_output=True, text=True)
                if len(re.findall(r" done ", table.stdout)) < 13:
                    sys.exit(table.stdout)
            if way != "not measured":
                record("slurm", f"tiny recipe, {way}", wall_s=round(seconds, 1))
            shutil.rmtree(folder / way.replace(" ", "_"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _queued() -> bool:
    return bool(subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip())


def _seconds(command: list[str], cwd: Path) -> float:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return time.perf_counter() - begin


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["array", "recipe", "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3, help="of the array (default: 3)")
    parser.add_argument("--jobs", type=int, default=100, help="of the array (default: 100)")
    args = parser.parse_args()
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        print("slurm: no cluster here: nothing is measured (make slurm-up, docs/slurm.md)")
        return
    if args.part != "recipe":
        array(args.jobs, args.repeats)
    if args.part != "array":
        recipe()


if __name__ == "__main__":
    main()
