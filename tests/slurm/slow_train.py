"""The training command with a pause at each step: `slow_train.py SECONDS OPTION...`, to be interrupted.

While there is a file `hold` in the experiment's folder, no step of its number or later begins; a file `held`
says that one waits. So a test can do what it likes within a step, however slow the machine.
"""

import contextlib
import sys
import time

from espnet_ext.bin.asr_train import main
from espnet_ext.train.trainer import Trainer


def slow(step, seconds: float):
    """A step that takes longer."""

    def slower(self):
        time.sleep(seconds)
        with contextlib.suppress(FileNotFoundError):
            while self.progress.step >= int((self.folder / "hold").read_text() or 0):
                (self.folder / "held").touch()
                time.sleep(0.02)
        step(self)

    return slower


if __name__ == "__main__":
    Trainer._step = slow(Trainer._step, float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
