"""Jobs that nobody waits for any more: whoever submitted them was killed, and could not cancel them."""

import sys
import time
from collections.abc import Callable

from espnet_ext.errors import UserError
from espnet_ext.launch.cluster import PATIENCE, Cluster
from espnet_ext.launch.jobfolder import JobFolder

#: Seconds that a job may need to end once it has been cancelled (a training saves).
GONE = 120.0


def end_forsaken(folder: JobFolder, cluster: Cluster, stopped: Callable[[], bool]) -> None:
    """End jobs with the log of a request that is about to be submitted, and wait until they are gone.

    They would go on beside the new ones: two trainings in one folder.

    Args:
        folder: of the new request.
        cluster: is asked, and only where a folder was left open.
        stopped: whether to give up waiting.

    Raises:
        UserError: they do not end, or Slurm does not answer.
    """
    for other, names in folder.forsaken().items():
        end, away, jobs = 0.0, time.monotonic() + PATIENCE, []
        while (rows := cluster.queue(names)) != []:
            now = time.monotonic()
            if stopped():
                return
            if rows is None and now > away:
                raise UserError(f"Slurm has not answered for {PATIENCE / 60:.0f} minutes (squeue)")
            if rows and not jobs:
                jobs, end = sorted({row.job for row in rows}), now + GONE
                print(
                    f"cancelled: {' '.join(jobs)}, left by a run that was killed", file=sys.stderr, flush=True
                )
                other.mark_cancelled()
                cluster.cancel(jobs)
            if rows and now > end:
                raise UserError(
                    f"job {' '.join(jobs)} of a run that was killed does not end: see squeue and scancel"
                )
            time.sleep(0.5)
        other.close()
