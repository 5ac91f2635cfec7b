"""Stages: files ``NN_name.sh`` whose leading comment is a YAML header that says what they read and write.

Header fields: ``does`` (a line for the table), ``scope`` (``recipe``, or what the stage is done for, such as
the experiment ``pretrain_${tag}``), ``options`` (those that decide the result), ``uncounted`` (those that do
not, as nj), ``arguments`` (an option whose words the script gets as ``"$@"``), ``training`` (options that
name the configurations of a training, whose options are tried before the stages before it run), ``task``
(of that training; without it the method's), ``decoding`` (options that name the configurations of a model,
for which ``decode_configs`` are tried as early),
``inputs``, ``outputs`` and ``logs`` (paths; a trailing `` ?`` marks one that may be absent), ``grows``
(paths, ``*`` in them at will, of files that appear or change as work gets further that goes on after an
interruption; a training's checkpoint need not be named).

A stage may have further parts, files ``NN_name.part.sh`` with a header, a state and outputs of their own:
what only some recipes or methods need. Their field ``when`` says with which values of which options they
run, ``when: {method: [lm_transfer]}``; a part named after a method needs none. A part with ``login: true``
fetches something from the internet, which a cluster's nodes do not have: ``--submit`` runs it before the
others, where it was called. What it needs must be there then.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from espnet_ext.errors import UserError
from espnet_ext.recipe.options import did_you_mean

_FILE = re.compile(r"(\d\d)_([a-z][a-z0-9_]*)(?:\.([a-z][a-z0-9_]*))?\.sh\Z")


@dataclass(frozen=True)
class Stage:
    """One stage, or a further part of one, as its file describes it; paths are templates."""

    number: int
    name: str
    file: Path
    does: str
    part: str = ""  # empty: the stage's first and general part
    scope: str = "recipe"
    options: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    arguments: str = ""
    training: tuple[str, ...] = ()
    task: str = ""
    decoding: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    grows: tuple[str, ...] = ()
    login: bool = False  # needs the internet: --submit runs it at once, on this machine
    when: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # options and their values; empty: always

    def __str__(self) -> str:
        return f"stage {self.number} {self.label}"

    @property
    def label(self) -> str:
        """Name with the part, as in ``targets.lm_transfer``."""
        return f"{self.name}.{self.part}" if self.part else self.name

    def runs(self, values: Mapping[str, str]) -> bool:
        """Whether the stage runs with these values of the options."""
        return all(values.get(name) in wanted for name, wanted in self.when.items())

    def code(self) -> str:
        """The script without comments and blank lines: what decides about the result."""
        lines = self.file.read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def load_stages(folder: Path) -> list[Stage]:
    """Read all stage files of a folder, in the order of their numbers; parts come after their stage.

    Raises:
        UserError: no stages, a header that is missing or wrong, a number or a name that occurs twice, a part
            of no stage.
    """
    stages = [_load(file, match) for file in folder.glob("*.sh") if (match := _FILE.match(file.name))]
    stages.sort(key=lambda stage: (stage.number, stage.part))
    whole = [stage for stage in stages if not stage.part]
    if not whole:
        raise UserError(f"{folder}: no stage files NN_name.sh here")
    for part in stages:
        if part.part and not any((part.number, part.name) == (one.number, one.name) for one in whole):
            raise UserError(f"{part.file}: a part of {part.number:02}_{part.name}.sh, which does not exist")
    for what in ("number", "name"):
        seen: dict = {}
        for stage in whole:
            other = seen.setdefault(getattr(stage, what), stage)
            if other is not stage:
                raise UserError(f"{stage.file.name} and {other.file.name} have the same {what}")
    return stages


def _load(file: Path, match: re.Match) -> Stage:
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line[2:])
    try:
        fields = yaml.safe_load("\n".join(header))
        for key in ("options", "uncounted", "training", "decoding", "inputs", "outputs", "logs", "grows"):
            fields[key] = tuple(fields.get(key) or ())
        part = match[3] or ""
        when = fields.pop("when", {"method": [part]} if part else {})
        fields["when"] = {name: tuple(str(value) for value in values) for name, values in when.items()}
        return Stage(number=int(match[1]), name=match[2], part=part, file=file, **fields)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: its leading comment is no stage header (see recipe/stages.py): {error}"
        ) from None


def find_stage(word: str, stages: list[Stage]) -> Stage:
    """The stage of a number or a name.

    Raises:
        UserError: there is none; the message names one that looks like it.
    """
    for stage in stages:
        if word == stage.name or (word.isascii() and word.isdigit() and int(word) == stage.number):
            return stage
    if word.isascii() and word.isdigit():
        raise UserError(
            f"there is no stage {word}: they go from {stages[0].number} to {stages[-1].number} (--list)"
        )
    hint = did_you_mean(word, [stage.name for stage in stages])
    raise UserError(f"there is no stage {word!r}{hint} (--list shows all)")


def select_stages(stages: list[Stage], start: str, stop: str, skip: str) -> list[Stage]:
    """The stages from ``start`` to ``stop`` (numbers or names, empty: all) without those in ``skip``.

    Raises:
        UserError: an unknown stage, or an empty range. A stop beyond the last stage means the last one.
    """
    first = find_stage(start, stages) if start else stages[0]
    beyond = stop.isascii() and stop.isdigit() and int(stop) > stages[-1].number
    last = find_stage(stop, stages) if stop and not beyond else stages[-1]
    if first.number > last.number:
        raise UserError(f"--stage {start} comes after --stop_stage {stop}: nothing to run")
    skipped = {find_stage(word, stages).number for word in skip.replace(",", " ").split()}
    return [
        stage
        for stage in stages
        if first.number <= stage.number <= last.number and stage.number not in skipped
    ]
