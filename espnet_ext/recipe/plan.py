"""What a ``--matrix`` file asks for: methods × controls × seeds × a small sweep, as rows.

The file::

    systems: [none, gan]        named systems of controls.yaml, or
    methods: [gan]              all systems of methods,
    controls: true              and what those are compared with
    seeds: [1, 2, 3]
    options: {nbpe: 200}        of run.sh, for every row
    sweep:                      points of a system: a name, and arguments of stage 8's training
        gan: {lambda1: --gan_conf lambda_d=1, lambda3: --gan_conf lambda_d=3}
    choose: {decoding: joint, figure: wer}     how points are compared, on the development set
    gpu_cap: 4                  GPUs at a time (without GPUs: trainings at a time); 0: no limit
    gpu_hours: {gan: 3, default: 2}            of a row, for the plan

Systems that a row needs (`needs` of controls.yaml) are rows of their own. Points of a sweep decode the
development set alone; the test sets are decoded once a point has been chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.recipe.options import read_yaml
from espnet_ext.recipe.systems import Systems

FIELDS = {"systems", "methods", "controls", "seeds", "options", "sweep", "choose", "gpu_cap", "gpu_hours"}
#: Of points of a sweep: they decode the development set alone.
NO_TEST = "--test_sets="
FIGURES = {"wer": "words", "cer": "characters"}


@dataclass(frozen=True)
class Row:
    """One experiment."""

    system: str
    point: str
    seed: int
    arguments: tuple[str, ...]  # of asr.sh, beside those of all rows
    dev_only: bool = False

    @property
    def whole(self) -> tuple[str, ...]:
        """Its arguments with the recipe's test sets, for stages that rows share, and once it is chosen."""
        return tuple(word for word in self.arguments if word != NO_TEST)

    @property
    def label(self) -> str:
        """System with the point."""
        return f"{self.system}_{self.point}" if self.point else self.system

    @property
    def name(self) -> str:
        """Name of its experiment's folder."""
        return f"{self.label}_seed{self.seed}"


@dataclass
class Plan:
    """What a file asks for."""

    rows: list[Row]
    levels: list[list[Row]]  # a level needs the one before
    decoding: str
    figure: str
    gpu_cap: int
    gpu_hours: Mapping[str, float]
    options: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Systems and points, in order."""
        return list(dict.fromkeys(row.label for row in self.rows))


def read_plan(file: Path, systems: Systems) -> Plan:
    """Expand a file into its rows.

    Raises:
        UserError: a field, system or option that does not exist; no rows.
    """
    content = read_yaml(file)
    if unknown := set(content) - FIELDS:
        raise UserError(f"{file}: {sorted(unknown)[0]}: expected {', '.join(sorted(FIELDS))}")
    names = [str(name) for name in content.get("systems") or []]
    for method in map(str, content.get("methods") or []):
        own = [name for name, system in systems.table.items() if system.method == method]
        if not own:
            raise UserError(f"{file}: methods: {method}: no controls.yaml has a system of it")
        controls = {pair.control for pair in systems.pairs}
        names += [name for name in own if name not in controls]
        if content.get("controls"):
            names += [pair.control for pair in systems.pairs if pair.system in own]
    seeds = content.get("seeds") or [1]
    if not isinstance(seeds, list) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise UserError(f"{file}: seeds: expected whole numbers, found {seeds!r}")
    sweep = content.get("sweep") or {}
    for name, points in sweep.items():
        if name not in names:
            raise UserError(f"{file}: sweep: {name}: not one of this matrix's systems ({', '.join(names)})")
        if not isinstance(points, Mapping) or not points:
            raise UserError(f"{file}: sweep: {name}: expected `point: arguments of the training`")
    level: dict[str, int] = {}

    def place(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise UserError(f"controls.yaml: {name} needs itself")
        if name not in level:
            needs = [place(each, (*above, name)) for each in systems.find(name).needs]
            level[name] = 1 + max(needs, default=-1)
        return level[name]

    for name in names:
        place(name)
    rows = [
        _row(name, str(point), arguments, seed)
        for name in level
        for point, arguments in (sweep.get(name) or {"": ""}).items()
        for seed in dict.fromkeys(seeds)
    ]
    if not rows:
        raise UserError(f"{file}: no rows: name systems or methods")
    choose = content.get("choose") or {}
    figure = choose.get("figure", "wer")
    if figure not in FIGURES or set(choose) - {"figure", "decoding"}:
        raise UserError(f"{file}: choose: expected decoding and figure ({' or '.join(FIGURES)})")
    hours = content.get("gpu_hours") or {}
    hours = {"default": hours} if isinstance(hours, int | float) else hours
    options = [f"--{name}={_text(value)}" for name, value in (content.get("options") or {}).items()]
    levels = [[row for row in rows if level[row.system] == depth] for depth in sorted(set(level.values()))]
    cap = int(content.get("gpu_cap") or 0)
    return Plan(rows, levels, choose.get("decoding", ""), figure, cap, hours, options)


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(name: str, point: str, arguments, seed: int) -> Row:
    words = ["--system", name, "--seed", str(seed)]
    if point:
        words += ["--point", point, f"--finetune_args={arguments or ''}", NO_TEST]
    return Row(name, point, seed, tuple(words), bool(point))
