"""Train a recogniser: `asr_train [--task NAME] OPTIONS`, the options being ESPnet's and the task's own.

NAME is a task of the entry-point group `espnet_ext.tasks`; `asr`, the default, is plain supervised training
of a joint CTC/attention recogniser. `asr_train --task NAME --help` lists its options. The model follows from
the configuration: with that of a transducer, `asr` stands for `transducer`, and a method for its task of the
name `<method>_transducer`.
"""

import argparse
import signal
import sys

from espnet_ext.errors import main_guard
from espnet_ext.registry import load_task, task_names
from espnet_ext.train.allocator import keep_freed_memory
from espnet_ext.train.signals import StopRequest


@main_guard
def main(cmd: list[str] | None = None) -> int:
    """Returns the exit status; 75 means stopped by a signal, run again to go on."""
    # Watched for from here on: a job that is preempted while it still imports wants to be run again as well.
    with StopRequest() as stop:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--task", default="asr")
        chosen, rest = parser.parse_known_args(cmd)
        return load_task(task_of(chosen.task, rest)).main(cmd=rest, stop=stop)


def task_of(name: str, cmd: list[str]) -> str:
    """The task that trains the model of `--config`."""
    variant = "transducer" if name == "asr" else f"{name}_transducer"
    if variant in task_names():
        from espnet_ext.asr.transducer_task import describes_transducer

        if describes_transducer(cmd):
            return variant
    return name


if __name__ == "__main__":
    # What stands here again once the training watches no more: a signal as the process ends, its work saved,
    # would turn its 75 into "killed".
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    sys.exit(main())
