"""The training command with a pause at each step: `slow_train.py SECONDS OPTION...`, to be interrupted."""

import sys
import time

from espnet_ext.bin.asr_train import main
from espnet_ext.train.trainer import Trainer


def slow(step, seconds: float):
    """A step that takes longer."""

    def slower(self):
        time.sleep(seconds)
        step(self)

    return slower


if __name__ == "__main__":
    Trainer._step = slow(Trainer._step, float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
