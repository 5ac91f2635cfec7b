"""Train a joint CTC/attention recogniser; the options are those of ESPnet's asr_train, see `--help`."""

import sys

from espnet_ext.errors import main_guard
from espnet_ext.train.signals import StopRequest


@main_guard
def main(cmd: list[str] | None = None) -> int:
    """Returns the exit status; 75 means stopped by a signal, run again to go on."""
    # Watched for from here on: a job that is preempted while it still imports wants to be run again as well.
    with StopRequest() as stop:
        from espnet_ext.asr.task import ASRTask

        return ASRTask.main(cmd=cmd, stop=stop)


if __name__ == "__main__":
    sys.exit(main())
