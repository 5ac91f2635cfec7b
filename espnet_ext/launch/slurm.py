"""The Slurm back end that waits: a request as jobs of a cluster, as Kaldi's slurm.pl does it.

Jobs leave their status in the request's folder. Looking there costs Slurm nothing; `squeue` is asked once
in a while, for all jobs at a time, to notice those that ended without leaving one.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.launch import joblog
from espnet_ext.launch.cluster import FINAL, Cluster, Ended, Full, Queued, Stopped
from espnet_ext.launch.ends import STUCK, meaning, status_of
from espnet_ext.launch.forsaken import end_forsaken
from espnet_ext.launch.jobfolder import JOB_SH, JobFolder, common_arguments
from espnet_ext.launch.request import Request
from espnet_ext.launch.settings import Plan
from espnet_ext.launch.watch import Watch
from espnet_ext.processes import ONE_WISH

#: Lines of a failed job's log that are shown.
TAIL = 20
#: Seconds from one question to squeue to the next, at first and at most.
FIRST_POLL, LAST_POLL = 5.0, 30.0
#: Seconds a job's status may need to show on a slow disk once Slurm says that the job has ended.
SLOW_DISK = 20.0
#: Seconds in which a job that has left its status leaves the node as well.
SETTLE = 3.0
#: Seconds to wait for what was cancelled to be gone.
GONE = 60.0


class SlurmRun:
    """One request on the cluster; `run` returns the exit status."""

    def __init__(self, request: Request, plan: Plan, folder: JobFolder, cluster: Cluster):
        """Nothing is submitted yet."""
        self.request, self.plan, self.folder, self.cluster = request, plan, folder, cluster
        self.chunks: list[tuple[str, int, int]] = []  # Slurm's job, first number, count
        self.left = list(request.numbers)  # not submitted yet
        self.open = set(request.numbers)  # not known to have ended
        self.status: dict[int, int] = {}
        self.failed: tuple[int, int, Ended | None] | None = None
        self.stop_signals: list[int] = []
        self.told_at = 0.0
        self.missed: dict[int, float] = {}  # since when a job has been in neither place
        self.full_until = 0.0
        self.told: set[str] = set()
        self.size = cluster.array_size()
        self.watch = Watch(len(request), Path(request.log).name)

    def run(self) -> int:
        """Submit, wait, collect.

        Returns:
            0, the status of the first job that failed, 75 if one asked to be run again, 143 after a signal.

        Raises:
            UserError: Slurm refuses the jobs.
        """
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            end_forsaken(self.folder, self.cluster, lambda: bool(self.stop_signals))
            self._loop()
        finally:
            if self.failed:
                self._learn_end()
            # One that failed may yet be put back into the queue.
            if self.chunks and (self.open or self.failed):
                self._cancel()
            else:
                self.folder.close()
            self.watch.end()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._verdict()

    def _loop(self) -> None:
        pause, poll, polled = 0.05, FIRST_POLL, time.monotonic()
        while self.open and not self.stop_signals and self.failed is None:
            if self.left and time.monotonic() >= self.full_until:
                self._submit()
            ended = self._collect()
            if self.open and time.monotonic() - polled >= poll:
                self._ask_slurm()
                polled, poll = time.monotonic(), min(LAST_POLL, poll * 1.5)
            running = len(self.request) - len(self.status) - len(self.left)
            self.watch.show(running, [self.request.log_of(min(self.open))] if self.open else [])
            if self.open and self.failed is None:
                pause = 0.05 if ended else min(1.0, pause * 1.2)
                self._sleep(pause)

    def _sleep(self, seconds: float) -> None:
        """Wait, but not on when a signal comes: whoever sends a second one may leave no time to cancel."""
        end = time.monotonic() + seconds
        while not self.stop_signals and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.1, left))

    def _submit(self) -> None:
        """Submit what is left, in arrays as large as the site takes them."""
        first, count = self.left[0], min(len(self.left), self.size)
        array = len(self.request) > 1
        words = [*self.plan.arguments]
        if array:
            most = self.request.max_jobs_run
            words.append(f"--array=0-{count - 1}" + (f"%{most}" if most else ""))
            if most and self.chunks:
                # Each array has a limit of its own: one after the other keep it in all.
                words.append(f"--dependency=afterany:{self.chunks[-1][0]}")
        name = f"{self.folder.name}.{first}" if array else self.folder.name
        self.folder.mark_open(name)
        try:
            job = self.cluster.submit(
                [*words, *common_arguments(self.folder), str(JOB_SH), str(self.folder.path), str(first)]
                + (["array"] if array else []),
                name,
                lambda: bool(self.stop_signals),
            )
        except Stopped:
            self.cluster.cancel_named(name)
            return
        except Full as full:
            if count > 1:
                self.size = max(1, count // 2)
                return
            if self.full_until == 0.0:
                print(f"the site takes no more jobs for now ({full}); waiting", file=sys.stderr, flush=True)
            self.full_until = time.monotonic() + 30.0
            return
        self.chunks.append((job, first, count))
        del self.left[:count]

    def _names(self) -> list[str]:
        return [
            f"{self.folder.name}.{first}" if len(self.request) > 1 else self.folder.name
            for _, first, _ in self.chunks
        ]

    def _collect(self) -> bool:
        """Read the statuses that have appeared."""
        fresh = [number for number in self.folder.finished() if number in self.open]
        for number in sorted(fresh):
            if done := self.folder.done(number):
                self._note(number, done.status, None)
        return bool(fresh)

    def _note(self, number: int, status: int, ended: Ended | None) -> None:
        self.open.discard(number)
        self.status[number] = status
        if status == 0:
            self.watch.done += 1
        elif self.failed is None and not self.stop_signals:
            self.failed = (number, status, ended)

    def _ask_slurm(self) -> None:
        """Look for jobs that have ended without leaving a status."""
        rows = self.cluster.queue(self._names())
        if rows is None:  # the controller is away: nothing is known, so nothing has happened
            return
        queued: set[int] = set()
        for row in rows:
            self._tell_stuck(row)
            first = next((first for job, first, _ in self.chunks if job == row.job), 0)
            queued |= {first + index for index in row.tasks} if row.tasks is not None else {first}
        submitted = {n for _, first, count in self.chunks for n in range(first, first + count)}
        self._collect()  # what ended between the two is no loss
        now = time.monotonic()
        for number in sorted((self.open & submitted) - queued):
            since = self.missed.setdefault(number, now)
            ended = self._ended(number)
            # A job that was killed leaves nothing that could still show on a slow disk.
            killed = ended and (ended.state not in ("COMPLETED", "FAILED") or ended.code > 128)
            if ended and ended.state in FINAL and killed:
                self._note(number, status_of(ended), ended)
            elif now - since > SLOW_DISK:
                # Without a word of Slurm there is none of its status either: it is not taken for good.
                self._note(number, status_of(ended) if ended else 1, ended or Ended("UNKNOWN", 1))
            if self.failed:
                break
        for number in queued:
            self.missed.pop(number, None)

    def _tell_stuck(self, row: Queued) -> None:
        if row.state == "PENDING" and STUCK.search(row.reason) and row.reason not in self.told:
            self.told.add(row.reason)
            print(
                f"job {row.job} does not start by itself: {row.reason.strip('()')} "
                f"(scontrol show job {row.job}; docs/slurm.md)",
                file=sys.stderr,
                flush=True,
            )

    def _ended(self, number: int) -> Ended | None:
        for job, first, count in self.chunks:
            if first <= number < first + count:
                return self.cluster.ended(job, number - first if len(self.request) > 1 else None)
        return None

    def _learn_end(self) -> None:
        """Ask how a job that was killed has ended, before anything is cancelled: by its memory, its time?"""
        number, status, ended = self.failed
        end = time.monotonic() + SETTLE
        while status > 128 and not (ended and ended.state in FINAL) and time.monotonic() < end:
            ended = self._ended(number)
            if ended is None or self.stop_signals:
                break
            time.sleep(0.2)
        self.failed = (number, status, ended)

    def _on_signal(self, number: int, frame) -> None:
        if self.stop_signals and time.monotonic() - self.told_at < ONE_WISH:
            return
        self.told_at = time.monotonic()
        self.stop_signals.append(number)
        if len(self.stop_signals) > 2:
            os._exit(128 + number)

    def _cancel(self) -> None:
        """End what is left in the queue, and wait until it is gone: nothing of ours runs on unseen."""
        with contextlib.suppress(OSError):
            self.folder.mark_cancelled()
        jobs = [job for job, _, _ in self.chunks]
        end = time.monotonic() + GONE
        told = self.cluster.cancel(jobs)
        while time.monotonic() < end and len(self.stop_signals) < 2:
            if not told:
                told = self.cluster.cancel(jobs)
            if self.cluster.queue(self._names()) == []:
                self.folder.close()
                break
            time.sleep(0.5)
        else:
            print(f"not certain to have ended, check with squeue: {' '.join(jobs)}", file=sys.stderr)
        for number in self.folder.finished():
            done = self.folder.done(number)
            if number in self.open and done:
                self.open.discard(number)
                self.status[number] = done.status

    def _verdict(self) -> int:
        if self.stop_signals and self.failed is None:
            if not self.open and not any(self.status.values()):
                return 0
            return RUN_AGAIN if RUN_AGAIN in self.status.values() else 128 + signal.SIGTERM
        if self.failed is None:
            return 0
        number, status, ended = self.failed
        which = (
            f"job {number} of {self.request.first} to {self.request.last}" if self.request.name else "the job"
        )
        said = "\n".join(
            line for line in self.folder.slurm_said().splitlines() if self._is_about(line, number)
        )
        log = self.request.log_of(number)
        unknown = ended and ended.state == "UNKNOWN"
        how = "left the queue without a status" if unknown else meaning(ended, status, said)
        print(f"{which} {how}; the end of its log {log}:", file=sys.stderr)
        for line in [*joblog.tail(log, TAIL), *said.splitlines()[-5:]]:
            print(f"  | {line}", file=sys.stderr)
        siblings = len(self.request) - 1 - sum(code == 0 for code in self.status.values())
        if siblings > 0:
            print(f"its siblings: {siblings} ended or not started", file=sys.stderr)
        return status

    def _is_about(self, line: str, number: int) -> bool:
        """Whether a line of Slurm's speaks of a job: an array's jobs share the file."""
        if len(self.request) == 1:
            return True
        done = self.folder.done(number)
        return bool(done and done.job in line) or any(
            f"{job}_{number - first}" in line for job, first, _ in self.chunks
        )
