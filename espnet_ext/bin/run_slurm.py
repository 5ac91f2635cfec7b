"""Run a command, or an array of jobs, on a Slurm cluster: ``[options] [JOB=1:N] LOG COMMAND ARGUMENT...``."""

import os
import sys
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.launch.cluster import Cluster
from espnet_ext.launch.interval import interval_warning
from espnet_ext.launch.jobfolder import JOB_SH, JobFolder
from espnet_ext.launch.local import LocalRun
from espnet_ext.launch.preempt import checkpoints_of
from espnet_ext.launch.request import USAGE, parse_request
from espnet_ext.launch.settings import KINDS, load_settings
from espnet_ext.launch.slurm import SlurmRun
from espnet_ext.launch.stage import staged
from espnet_ext.processes import die_with_parent

#: In the environment of a job that runs a whole stage: its commands run within what it was given.
INSIDE = "ESPNET_EXT_STAGE_JOB"


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Parse, run, return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    kind = "cpu"
    if arguments[:1] == ["--kind"] and len(arguments) > 1:
        kind, arguments = arguments[1], arguments[2:]
    if kind not in KINDS:
        raise UserError(f"--kind {kind}: expected one of {', '.join(KINDS)}")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(program="run_slurm [--kind cpu|train|decode]"), end="")
        return 0 if arguments else 1
    request = parse_request(arguments)
    settings = load_settings(_template())
    if os.environ.get(INSIDE) and kind != "train":
        die_with_parent(os.getppid())
        return LocalRun(request).run()
    cluster = Cluster()
    plan = settings.plan(request, kind, cluster)
    if plan.stage_data and kind == "train":
        request = staged(request, plan.stage_data)
    inside = bool(os.environ.get(INSIDE))
    if kind == "train":
        seconds = settings.of(kind)["signal_seconds"]
        if warning := interval_warning(request.command, plan.arguments, seconds):
            print(warning, file=sys.stderr, flush=True)
    folder = JobFolder.create(
        request,
        kind,
        threads=plan.threads,
        tasks=plan.tasks,
        step=plan.step,
        requeue=plan.requeue and not inside,
        offline=plan.offline,
        progress={request.first: checkpoints_of(request.command)},
        max_fruitless=plan.max_fruitless,
    )
    if inside:
        # The stage's job puts itself back into the queue; here is only its step.
        os.execvp("bash", ["bash", str(JOB_SH), str(folder.path), str(request.first)])
    die_with_parent(os.getppid())
    return SlurmRun(request, plan, folder, cluster).run()


def _template() -> Path | None:
    found = os.environ.get("template_dir")
    return Path(found) if found else None


if __name__ == "__main__":
    sys.exit(main())
