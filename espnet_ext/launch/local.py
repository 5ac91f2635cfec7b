"""The local back end: the jobs of a request as processes of this machine, a few at a time.

Every job has its own process group, so that ending a job ends all it has started, and dies with this process.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.launch import joblog
from espnet_ext.launch.machine import gpus
from espnet_ext.launch.preempt import Preemption, Runs, checkpoints_of, fruitless_message
from espnet_ext.launch.request import Request
from espnet_ext.launch.watch import Watch
from espnet_ext.processes import ONE_WISH, cores, die_with_parent, signal_group

#: Seconds a job has to end after SIGTERM because a sibling failed.
GRACE = 10.0
#: Lines of a failed job's log that are shown.
TAIL = 20
#: Why a command may not start, by error number.
_START_HINTS = {
    errno.ENOEXEC: " (a script needs a first line such as #!/usr/bin/env bash)",
    errno.EACCES: " (a script needs `chmod +x`)",
}


@dataclass
class _Job:
    number: int
    log: Path
    descriptor: int
    process: subprocess.Popen | None  # None: the command could not be started
    start: float
    devices: list[str]
    told: bool = False
    runs: Runs | None = None  # under fake preemption: the runs it has had
    interrupted: int = 0  # by this signal


class LocalRun:
    """One request on this machine; `run` returns the exit status."""

    def __init__(self, request: Request):
        """Decide how many jobs run at a time.

        Raises:
            UserError: more GPUs are asked for than this machine shows.
        """
        self.request = request
        self.devices = gpus() if request.gpu else []
        if request.gpu > len(self.devices):
            raise UserError(
                f"--gpu {request.gpu}: this machine shows {len(self.devices)} GPU(s) "
                "(nvidia-smi, CUDA_VISIBLE_DEVICES); use --ngpu 0 to run on the processor"
            )
        room = len(self.devices) // request.gpu if request.gpu else cores() // (request.num_threads or 1)
        self.at_once = min(len(request), request.max_jobs_run or max(1, room))
        if request.gpu:
            self.at_once = min(self.at_once, room)
        self.threads = request.num_threads or max(1, cores() // self.at_once)
        self.waiting = list(request.numbers)
        self.running: list[_Job] = []
        self.stop_signals, self.told_at = 0, 0.0
        self.failure: tuple[_Job, int] | None = None
        self.kill_at = float("inf")
        self.again = False
        self.preemption = Preemption.from_environment()
        self.watch = Watch(len(request), Path(request.log).name)

    def run(self) -> int:
        """Run all jobs.

        Returns:
            0, the status of the first job that failed (128 + N for a job that signal N ended), 75 if a job
            asked to be run again, or 143 after SIGTERM.
        """
        # Ctrl-C and SIGTERM mean the same to jobs: save what is worth it and end. The second time: end now.
        previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.at_once:
                    self._start(self.waiting.pop(0))
                self._reap()
                if time.monotonic() > self.kill_at:
                    self._signal_jobs(signal.SIGKILL)
                    self.kill_at = float("inf")
                self._preempt()
                self.watch.show(len(self.running), [job.log for job in self.running])
                time.sleep(self._pause())
        finally:
            self._signal_jobs(signal.SIGKILL)
            self.watch.end()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._verdict()

    def _start(self, number: int, runs: Runs | None = None) -> None:
        log, command = self.request.log_of(number), self.request.command_of(number)
        descriptor = joblog.open_log(log, command, append=runs is not None)
        if self.preemption and runs is None:
            runs = Runs(checkpoints_of(command))
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        devices = [self.devices.pop(0) for _ in range(self.request.gpu)]
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        parent = os.getpid()
        process = None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
            )
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                hint = _START_HINTS.get(getattr(error, "errno", None), "")
                joblog.write(descriptor, f"{command[0]}: cannot be started: {error}{hint}\n")
        self.running.append(_Job(number, log, descriptor, process, time.monotonic(), devices, runs=runs))
        if self.stop_signals:  # a signal may have come while the job was being started
            self._tell(self.running[-1])

    def _reap(self) -> None:
        for job in list(self.running):
            code = job.process.poll() if job.process else 127
            if code is None:
                continue
            code = 128 - code if code < 0 else code
            if job.process:
                signal_group(job.process.pid, signal.SIGKILL)  # what a job leaves behind ends with it
            joblog.close_log(job.descriptor, code, time.monotonic() - job.start, self.threads)
            self.running.remove(job)
            self.devices += job.devices
            if job.interrupted and self._run_again(job, code):
                continue
            self.again |= code == RUN_AGAIN
            if code == 0:
                self.watch.done += 1
            elif self.failure is None and not self.stop_signals:
                self.failure = (job, code)
                self.not_started, self.siblings = len(self.waiting), len(self.running)
                self.waiting.clear()
                self._tell(*self.running)
                self.kill_at = time.monotonic() + GRACE

    def _pause(self) -> float:
        """Seconds until the next look at the jobs."""
        if self.preemption and self.preemption.on_save:
            return 0.005  # a small training may end soon after its checkpoint
        return 0.02 if time.monotonic() - self.watch.start < 2 else 0.1

    def _preempt(self) -> None:
        """Interrupt what has run as long as fake preemption lets it."""
        for job in self.running if self.preemption else []:
            if not job.interrupted and self.preemption.due(time.monotonic() - job.start, job.runs):
                job.interrupted = self.preemption.signal_of(job.runs.count)
                if job.process:
                    signal_group(job.process.pid, job.interrupted)

    def _run_again(self, job: _Job, code: int) -> bool:
        """Start a job once more that fake preemption has interrupted; False if it has ended for good."""
        if self.stop_signals or self.failure:
            return False
        if job.runs.again(code, job.interrupted):
            self._start(job.number, job.runs)
            return True
        if job.runs.given_up:
            with open(job.log, "a", encoding="utf-8") as log:
                log.write(fruitless_message(job.runs.fruitless))
        return False

    def _on_signal(self, number: int, frame) -> None:
        if self.stop_signals and time.monotonic() - self.told_at < ONE_WISH:
            return
        self.told_at = time.monotonic()
        self.stop_signals += 1
        self.waiting.clear()
        if self.stop_signals == 1:
            self._tell(*self.running)
        else:
            self._signal_jobs(signal.SIGKILL)

    def _tell(self, *jobs: _Job) -> None:
        """Ask jobs to end, each once: two signals mean "now" to a training that is saving."""
        for job in jobs:
            if job.process and not job.told:
                job.told = True
                signal_group(job.process.pid, signal.SIGTERM)

    def _signal_jobs(self, number: int) -> None:
        for job in self.running:
            if job.process:
                signal_group(job.process.pid, number)

    def _verdict(self) -> int:
        if self.stop_signals:
            return RUN_AGAIN if self.again else 128 + signal.SIGTERM
        if self.failure is None:
            return 0
        job, code = self.failure
        which = (
            f"job {job.number} of {self.request.first} to {self.request.last}"
            if self.request.name
            else "the job"
        )
        if code == RUN_AGAIN:
            print(f"{which} was preempted and wants to be run again (status 75): {job.log}", file=sys.stderr)
            return code
        lines = joblog.tail(job.log, TAIL)
        how = (
            f"was killed by {signal.Signals(code - 128).name}"
            if _is_signal(code)
            else f"failed with status {code}"
        )
        if code == 128 + signal.SIGKILL:
            how += " (out of memory? try a smaller batch or fewer jobs)"
        print(f"{which} {how}; the end of its log {job.log}:", file=sys.stderr)
        print("\n".join(f"  | {line}" for line in lines), file=sys.stderr)
        if self.siblings or self.not_started:
            print(f"its siblings: {self.siblings} ended, {self.not_started} not started", file=sys.stderr)
        return code


def _is_signal(code: int) -> bool:
    return code > 128 and code - 128 in set(signal.Signals)
