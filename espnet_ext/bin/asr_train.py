"""Train a joint CTC/attention recogniser; the options are those of ESPnet's asr_train, see `--help`."""

import sys

from espnet_ext.errors import main_guard


@main_guard
def main(cmd: list[str] | None = None) -> int:
    """Returns the exit status; 75 means stopped by a signal, run again to go on."""
    from espnet_ext.asr.task import ASRTask

    return ASRTask.main(cmd=cmd)


if __name__ == "__main__":
    sys.exit(main())
