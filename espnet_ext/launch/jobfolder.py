"""The folder that holds a request while Slurm runs it: what `job.sh` reads, and what it writes there.

::

    words         the command, each word ended by NUL, with a token in place of the job's number
    settings.sh   assignments, quoted for the shell
    progress/N    files that change when job N has moved on, each ended by NUL
    done/N        `status host slurm-job begin end` of job N (times in seconds since 1970), once it has ended
    history/N     starts and ends of job N, one a line, if it may run several times
    slurm.out     what Slurm itself has to say (a time limit, memory)
    log           file name of the log, as it was asked for
    cancelled     is there once we have cancelled the jobs
    open          names of jobs that somebody waits for, or waited for until he was killed
"""

import os
import secrets
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.launch.request import Request

JOB_SH = Path(__file__).with_name("job.sh")
#: Ends without progress after which a job is given up.
MAX_FRUITLESS = 3


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    status: int
    host: str
    job: str
    begin: int  # seconds since 1970
    end: int


def words_of(command: Sequence[str], name: str, fill) -> tuple[str, list[str]]:
    """A token that occurs nowhere in the command, and the command with it in place of the job's number."""
    while (token := f"@{secrets.token_hex(8)}@") in "\0".join(command):
        pass
    return token, [fill(word, token) if name else word for word in command]


@dataclass(frozen=True)
class JobFolder:
    """One request's folder."""

    path: Path

    @classmethod
    def create(
        cls,
        request: Request,
        kind: str,
        *,
        threads: int,
        tasks: int = 1,
        step: Sequence[str] = (),
        requeue: bool = True,
        offline: bool = True,
        progress: Mapping[int, Sequence[str]] | None = None,
        again: bool | None = None,
        max_fruitless: int = MAX_FRUITLESS,
        root: Path | None = None,
    ) -> "JobFolder":
        """Write a new folder.

        Args:
            request: what is asked for.
            kind: cpu, train, decode, or stage for a job that runs stages.
            threads: threads of a task.
            tasks: tasks of a training's step.
            step: further options of its `srun`.
            requeue: whether a job that wants to run again goes back into the queue by itself.
            offline: whether the hubs of models are told to stay offline.
            progress: files that change when the work of a job has moved on.
            again: whether jobs may run several times and keep a history; default: those of no array.
            max_fruitless: see `MAX_FRUITLESS`.
            root: where to put it; default: the folder `q` beside the logs.

        Raises:
            OSError: it cannot be written.
        """
        log = Path(request.log)
        root = root or log.parent / "q"
        # The name becomes a job's name: it must not hold what Slurm or a person's shell reads in its own way.
        stem = "".join(c if c.isalnum() and c.isascii() or c in "._-" else "_" for c in log.stem) or "job"
        path = root / f"{stem}.{secrets.token_hex(4)}"
        for name in ("done", "history"):
            (path / name).mkdir(parents=True)
        token, words = words_of([*request.command, request.log], request.name, request.fill)
        words, log_words = words[:-1], words[-1]
        (path / "log").write_bytes(os.fsencode(log.name))
        (path / "words").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
        values = {
            "token": token,
            "log": log_words if "/" in log_words else f"./{log_words}",
            "kind": kind,
            "threads": str(threads),
            "tasks": str(tasks),
            "requeue": "true" if requeue else "false",
            "offline": "true" if offline else "false",
            # An array of a thousand jobs need not write two files more for each.
            "runs": "many" if (len(request) == 1 if again is None else again) else "once",
            "max_fruitless": str(max_fruitless),
        }
        lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        lines.append(f"step=({shlex.join(step)})")
        for number, files in (progress or {}).items():
            (path / "progress").mkdir(exist_ok=True)
            (path / "progress" / str(number)).write_bytes(b"".join(os.fsencode(f) + b"\0" for f in files))
        (path / "settings.sh").write_bytes(os.fsencode("\n".join(lines) + "\n"))
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the jobs, the same for no other request."""
        return self.path.name

    def finished(self) -> list[int]:
        """Numbers of the jobs that have ended; a network disk may show them late."""
        with os.scandir(self.path / "done") as entries:
            return [int(entry.name) for entry in entries if entry.name.isdigit()]

    def done(self, number: int) -> Done | None:
        """How a job ended, None if it has not (or its file is not whole yet)."""
        try:
            text = (self.path / "done" / str(number)).read_text()
        except OSError:
            return None
        words = text.split()
        if len(words) != 5 or not text.endswith("\n"):
            return None
        return Done(int(words[0]), words[1], words[2], int(words[3]), int(words[4]))

    def history(self, number: int = 1) -> list[list[str]]:
        """Lines of a job's history, split: what, (status,) time, host, job, restarts."""
        try:
            lines = (self.path / "history" / str(number)).read_text().splitlines()
        except OSError:
            return []
        return [line.split() for line in lines if len(line.split()) >= 5]

    def slurm_said(self) -> str:
        """What Slurm wrote about the jobs."""
        try:
            return (self.path / "slurm.out").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def cancelled(self) -> bool:
        """Whether we have cancelled the jobs."""
        return (self.path / "cancelled").exists()

    def ended_by_cancelling(self, done: Done) -> bool:
        """Whether a job that left a status had not ended before we cancelled it."""
        try:
            when = (self.path / "cancelled").stat().st_mtime
        except OSError:
            return False
        killed = done.status in (RUN_AGAIN, 128 + signal.SIGTERM, 128 + signal.SIGKILL)
        return done.end > when or killed and done.end >= int(when)  # its time is in whole seconds

    def mark_open(self, name: str) -> None:
        """Leave word, before they are submitted, of jobs of this name that will be waited for."""
        with open(self.path / "open", "a", encoding="utf-8") as handle:
            handle.write(f"{name}\n")

    def close(self) -> None:
        """None of the jobs is in the queue any more."""
        (self.path / "open").unlink(missing_ok=True)

    def forsaken(self) -> dict["JobFolder", list[str]]:
        """Folders of the same log that nobody has closed, with the names of their jobs."""
        log = (self.path / "log").read_bytes()  # folders of `a b.log` and `a_b.log` have one stem
        found = {}
        for file in self.path.parent.glob("*/open"):
            its = file.parent / "log"
            if file.parent != self.path and its.exists() and its.read_bytes() == log:
                found[JobFolder(file.parent)] = file.read_text(encoding="utf-8").split()
        return found

    def mark_cancelled(self) -> None:
        """Leave word that the jobs were cancelled by us."""
        (self.path / "cancelled").touch()


def common_arguments(folder: JobFolder) -> list[str]:
    """Arguments of `sbatch` that all our jobs have."""
    said = str((folder.path / "slurm.out").resolve())
    # Slurm replaces %x and the like in a file's name; if it has backslashes, it takes them away instead.
    said = said.replace("\\", "\\\\") if "\\" in said else said.replace("%", "%%")
    return [
        "--export=ALL",
        f"--chdir={os.getcwd()}",
        f"--output={said}",
        "--open-mode=append",
    ]
