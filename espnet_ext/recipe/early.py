"""What a later stage would refuse is refused before the stages before it run, which may take hours."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.recipe.options import read_yaml
from espnet_ext.recipe.stages import Stage

#: In the YAML of a transducer, and of no other model.
_TRANSDUCER = "joint_network_conf"


def left_stale(stages: Sequence[Stage], selected: Sequence[Stage], state_of: Callable) -> Iterator[str]:
    """A line for each stage before the selected ones that would not be what it was: its files have changed.

    Whoever begins at stage 8 after a transcript was corrected trains with the lengths of the former one.

    Args:
        stages: all, in order.
        selected: those that are to run.
        state_of: from a stage to its `StageState`.
    """
    last = max((stage.number for stage in selected), default=0)
    chosen = {stage.label for stage in selected}
    for stage in stages:
        if stage.number < last and stage.label not in chosen and (files := state_of(stage).changed_files()):
            more = f" and {len(files) - 1} more" if files[1:] else ""
            yield (
                f"note: {stage} is not among the stages to run, and has read {files[0]}{more} before that "
                f"changed; what follows stands on its old result (--stage {stage.name} does it again)"
            )


class Early:
    """Looks ahead at stages that are to be run.

    Args:
        work: those stages, in order.
        values: of all options.
        config_file: from the name of a configuration to its file.
    """

    def __init__(self, work: Sequence[Stage], values: dict[str, str], config_file: Callable[[str], str]):
        self.work, self.values, self.config_file = work, values, config_file

    def check(self, words: Callable[[Stage], list[str]]) -> None:
        """Ways to decode, then the options of trainings.

        Args:
            words: from a stage to the words of its option `arguments`.

        Raises:
            UserError: naming the stage that would refuse it.
        """
        for stage in self.work:
            if stage.decoding and not self.values.get("ensemble"):
                self._check_decoding(stage)
        trainings = {str(stage): self._training(stage, words(stage)) for stage in self.work if stage.training}
        if trainings:
            self._try(["-m", "espnet_ext.bin.check_training", "--several", json.dumps(trainings)])

    def files(self, options: Sequence[str]) -> list[str]:
        """Configuration files that options name; an empty one names none."""
        return [self.config_file(self.values[name]) for name in options if self.values[name]]

    def _check_decoding(self, stage: Stage) -> None:
        """Its YAML, and whether the model can be asked that way."""
        models = self.files(stage.decoding)
        transducer = any(_TRANSDUCER in read_yaml(Path(file)) for file in models)
        ways = [f"conf/decode_{name}.yaml" for name in self.values["decode_configs"].split()]
        command = ["-m", "espnet_ext.bin.check_decoding", "--model", models[-1], "--configs"]
        command += [*map(self.config_file, ways), "--transducer", str(transducer).lower()]
        command += ["--use_lm", self.values["use_lm"]]
        self._try(command, f"{stage} would refuse --decode_configs: ")

    def _training(self, stage: Stage, words: list[str]) -> list[str]:
        """Words of `check_training` about its options."""
        task = stage.task or self.values["task"]
        own = ["--task", task, "--seed", self.values["seed"], "--ngpu", self.values["ngpu"]]
        own += self.files(stage.training)
        if self.values.get("submit") != "true":  # else jobs that are in the queue may write what it names
            own += ["--start", self.values["pretrain_exp"]]
        return [*own, "--", *words]

    @staticmethod
    def _try(command: list[str], before: str = "") -> None:
        found = subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True, check=False)
        _, error, message = found.stderr.rpartition("error: ")
        if found.returncode == 1 and error:  # anything else than a wrong option shows when its time comes
            raise UserError(before + message.strip())
