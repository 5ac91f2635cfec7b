"""What is asked of a back end: ``[options] [JOB=1:N] LOG COMMAND ARGUMENT...``."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from espnet_ext.errors import UserError

_ARRAY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(\d+)(?::(\d+))?\Z")

USAGE = """\
usage: {program} [options] [JOB=1:N] LOG COMMAND ARGUMENT...

Runs COMMAND once, or N times with JOB replaced by 1 to N in LOG and in every argument where it stands as a
word of its own (not next to a letter or a digit). COMMAND and its arguments reach the kernel as they are,
without a shell: `|`, `>`, `;` and `$()` mean nothing.

options:
  --max_jobs_run N   at most N jobs at a time (default: processor cores / num_threads, or GPUs / gpu)
  --num_threads N    threads of a job: OMP_NUM_THREADS, unless that is set (default: its share of the cores)
  --gpu N            GPUs of a job: each job sees its own in CUDA_VISIBLE_DEVICES (default: 0)
  --mem SIZE         memory of a job, for cluster back ends; no limit is set on this machine
  --time LIMIT       time limit of a job, for cluster back ends; no limit is set on this machine
Kaldi's spelling with hyphens (--max-jobs-run, --num-threads) works too.

exit status: 0; that of the first job that failed (its siblings are ended); 75 if a job asks to be run again
"""


@dataclass(frozen=True)
class Request:
    """One command, run once or as an array of jobs."""

    log: str  # log file, with the job name in it if this is an array
    command: tuple[str, ...]
    name: str = ""  # the word that stands for the job's number, "" without an array
    first: int = 1
    last: int = 1
    max_jobs_run: int = 0  # 0: as many as the machine holds
    num_threads: int = 0  # 0: an equal share
    gpu: int = 0
    ignored: dict[str, str] = field(default_factory=dict)  # options only clusters know

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def numbers(self) -> range:
        """Numbers of the jobs."""
        return range(self.first, self.last + 1)

    def log_of(self, number: int) -> Path:
        """Log file of a job."""
        return Path(self.fill(self.log, number))

    def command_of(self, number: int) -> list[str]:
        """Command and arguments of a job."""
        return [self.fill(word, number) for word in self.command]

    def fill(self, word: str, number: int | str) -> str:
        """A word with the job's number, or what stands for it, in the place of the name."""
        # A path such as /data/JOBS/x must not become /data/1S/x.
        return (
            re.sub(rf"(?<![A-Za-z0-9]){self.name}(?![A-Za-z0-9])", str(number), word) if self.name else word
        )


def parse_request(arguments: list[str]) -> Request:
    """Parse a back end's command line (without the program's name).

    Raises:
        UserError: an unknown option, a value that is no number, an empty array, a log shared by several jobs,
            no command.
    """
    words = list(arguments)
    counts = {"max_jobs_run": 0, "num_threads": 0, "gpu": 0}
    ignored = {"mem": "", "time": ""}
    while words and words[0].startswith("-"):
        option, equals, value = words.pop(0).removeprefix("--").partition("=")
        option = option.replace("-", "_")
        if option not in counts and option not in ignored:
            raise UserError(
                f"unknown option --{option}; known: {', '.join('--' + o for o in [*counts, *ignored])}"
            )
        if not equals:
            if not words:
                raise UserError(f"option --{option} needs a value")
            value = words.pop(0)
        if option in ignored:
            ignored[option] = value
        elif value.isascii() and value.isdigit():
            counts[option] = int(value)
        else:
            raise UserError(f"option --{option}: expected a number, found {value!r}")
    name, first, last = "", 1, 1
    if words and (match := _ARRAY.match(words[0])):
        name, first = match[1], int(match[2])
        last = int(match[3] or first)
        if not 1 <= first <= last:
            raise UserError(
                f"{words[0]}: an array counts from 1 or more up to at least its start, as JOB=1:8"
            )
        words.pop(0)
    if len(words) < 2:
        raise UserError("expected [options] [JOB=1:N] LOG COMMAND ARGUMENT..., found no command")
    request = Request(words[0], tuple(words[1:]), name, first, last, ignored=ignored, **counts)
    if len(request) > 1 and request.log_of(first) == request.log_of(last):
        raise UserError(f"{request.log}: {len(request)} jobs would write this log; put {name} in its name")
    return request
