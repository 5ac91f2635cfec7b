"""Jobs that nobody waits for: submitted at once, with dependencies, looked at and cancelled later."""

import os
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.launch.cluster import Cluster, Full
from espnet_ext.launch.ends import meaning, status_of
from espnet_ext.launch.jobfolder import JOB_SH, JobFolder, common_arguments
from espnet_ext.launch.request import Request
from espnet_ext.launch.settings import load_settings


@dataclass(frozen=True)
class Work:
    """One job of a submission."""

    command: tuple[str, ...]
    progress: tuple[str, ...] = ()  # files that change when it has moved on


@dataclass(frozen=True)
class Look:
    """How a job is."""

    state: str  # waiting, running, done, failed, again (it waits for its next run), lost
    node: str = ""
    elapsed: float = 0.0  # seconds, all its runs together
    why: str = ""
    hint: str = ""  # of one that failed: what to change

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running", "again")


class Submitter:
    """Submits and looks after the jobs of a recipe."""

    def __init__(self, template: Path):
        """Read the recipe's settings.

        Raises:
            UserError: they cannot be understood.
        """
        self.settings, self.cluster = load_settings(template), Cluster()
        self._rows = None

    @staticmethod
    def work(command: Sequence[str], progress: Sequence[str]) -> Work:
        """One job."""
        return Work(tuple(command), tuple(progress))

    def submit(
        self,
        works: Sequence[Work],
        log: str,
        kind: str,
        *,
        threads: int = 0,
        gpu: int = 0,
        after: Iterable[str] = (),
        after_any: Iterable[str] = (),
        at_once: int = 0,
        time_limit: str = "",
    ) -> dict:
        """Submit one job, or several as an array.

        Args:
            works: what to run, one or several.
            log: its log, with JOB in its name if there are several.
            kind: what is asked of the cluster for it: cpu, train or decode.
            threads: processors; 0: as the settings say.
            gpu: GPUs.
            after: jobs of Slurm that come first, and without which this one is cancelled.
            after_any: jobs that come first, however they end.
            at_once: so many of the array at a time; 0: all.
            time_limit: instead of the settings' own.

        Returns:
            the record: job, folder, log, count.

        Raises:
            UserError: Slurm refuses it.
        """
        first = works[0]
        command = first.command
        name = ""
        if len(works) > 1:
            name = "JOB"
            rows = Path(log).parent / "q" / f"rows.{secrets.token_hex(4)}"
            command = ("python", "-m", "espnet_ext.bin.run_row", f"{rows}/JOB")
        ignored = {"time": time_limit} if time_limit else {}
        request = Request(log, command, name, 1, len(works), at_once, threads, gpu, ignored)
        plan = self.settings.plan(request, kind, self.cluster)
        if len(works) > self.cluster.array_size():
            raise UserError(
                f"{len(works)} jobs are more than an array may have here ({self.cluster.array_size()})"
            )
        folder = JobFolder.create(
            request,
            "stage",
            threads=plan.threads,
            tasks=plan.tasks,
            requeue=plan.requeue,
            offline=plan.offline,
            progress={number: work.progress for number, work in enumerate(works, 1)},
            again=True,
            max_fruitless=plan.max_fruitless,
        )
        if name:
            rows.mkdir(parents=True)
            for number, work in enumerate(works, 1):
                (rows / str(number)).write_bytes(b"".join(os.fsencode(word) + b"\0" for word in work.command))
        words = [*plan.arguments, *common_arguments(folder)]
        before = {"afterok": list(dict.fromkeys(after)), "afterany": list(dict.fromkeys(after_any))}
        if any(before.values()):
            conditions = [":".join([how, *jobs]) for how, jobs in before.items() if jobs]
            words += [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"]
        if name:
            words.append(f"--array=0-{len(works) - 1}" + (f"%{at_once}" if at_once else ""))
        words += [str(JOB_SH), str(folder.path.resolve()), "1", *(["array"] if name else [])]
        try:
            job = self.cluster.submit(words, folder.name)
        except Full as full:
            raise UserError(f"the site takes no more jobs of yours for now: {full}") from None
        except KeyboardInterrupt:
            self.cluster.cancel_named(folder.name)
            raise
        return {"job": job, "folder": str(folder.path), "log": log, "count": len(works), "time": time.time()}

    @staticmethod
    def is_cancelled(record: Mapping) -> bool:
        """Whether a job was cancelled by us; a training may still be saving."""
        return JobFolder(Path(record["folder"])).cancelled

    def look(self, records: Sequence[Mapping]) -> list[list[Look]]:
        """How the jobs of each record are, one call of squeue for all."""
        folders = [JobFolder(Path(record["folder"])) for record in records]
        rows = self.cluster.queue([folder.name for folder in folders])
        found = []
        for record, folder in zip(records, folders, strict=True):
            mine = None if rows is None else [row for row in rows if row.name == folder.name]
            found.append(
                [self._look(folder, number, record, mine) for number in range(1, record["count"] + 1)]
            )
        return found

    def _look(self, folder: JobFolder, number: int, record: Mapping, rows) -> Look:
        row = next((r for r in rows or () if r.tasks is None or number - 1 in r.tasks), None)
        spent, since, node = spent_of(folder.history(number))
        if done := folder.done(number):  # after the queue: it may have ended in between
            spent = max(spent, float(done.end - done.begin))
            if not done.status:
                return Look("done", done.host, spent)
            if folder.ended_by_cancelling(done):
                return Look("failed", done.host, spent, "cancelled")
            killed = done.status > 128
            hint = meaning(None, done.status, _said(folder, record)) if killed else ""
            return Look("failed", done.host, spent, f"status {done.status}", hint)
        if rows is None:
            return Look("unknown", node, spent, "Slurm does not answer")
        if row is None:
            return self._gone(folder, record, number, node, spent)
        if row.state == "PENDING":
            return Look("again" if node else "waiting", node, spent, row.reason.strip("()"))
        return Look("running", row.node, spent + (time.time() - since if since else 0.0))

    def _gone(self, folder: JobFolder, record: Mapping, number: int, node: str, spent: float) -> Look:
        ended = self.cluster.ended(record["job"], number - 1 if record["count"] > 1 else None)
        if ended is None:
            return Look("lost", node, spent, "it has left the queue without a status")
        if ended.state == "COMPLETED":  # on a slow disk its status shows later
            return Look("done", node, spent)
        if folder.cancelled:
            return Look("failed", node, spent, "cancelled")
        if ended.state == "CANCELLED" and not node:
            return Look("failed", node, spent, "cancelled, or a job before it failed")
        hint = meaning(ended, status_of(ended), _said(folder, record))
        return Look("failed", node, spent, ended.state.lower().replace("_", " "), hint)

    def cancel(self, records: Sequence[Mapping]) -> list[str]:
        """Cancel what is alive; returns the jobs."""
        looks = self.look(records)
        alive = [
            record
            for record, states in zip(records, looks, strict=True)
            if any(look.alive or look.state == "unknown" for look in states)
        ]
        for record in alive:
            JobFolder(Path(record["folder"])).mark_cancelled()
        jobs = [record["job"] for record in alive]
        if not self.cluster.cancel(jobs):
            raise UserError(f"Slurm did not take it; try again, or: {shlex.join(['scancel', *jobs])}")
        return jobs


def _said(folder: JobFolder, record: Mapping) -> str:
    """What Slurm wrote about a job; jobs of an array share the file."""
    return folder.slurm_said() if record["count"] == 1 else ""


def spent_of(history: list[list[str]]) -> tuple[float, float, str]:
    """Seconds of the runs that have ended, begin of one that has not (or 0), last node.

    >>> spent_of([["start", "100", "n1", "7", "0"], ["again", "75", "160", "n1", "7", "0"]])
    (60.0, 0.0, 'n1')
    """
    spent, since, node = 0.0, 0.0, ""
    for line in history:
        moment, node = float(line[-4]), line[-3]
        if line[0] == "start":
            since = moment  # of a run that was killed nobody knows the end
        elif since:
            spent, since = spent + moment - since, 0.0
    return spent, since, node
