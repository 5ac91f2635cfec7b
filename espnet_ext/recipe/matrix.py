"""A matrix's experiments: what its rows share, what each runs for itself, and what is known about it.

Stages 1 to 7 of all rows together are run once for each of their states (`StageState`); the starting models
are exported, decoded and scored once; then each row runs its stages 8 to 11.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.recipe.lock import SHARED
from espnet_ext.recipe.plan import FIGURES, Row, read_plan
from espnet_ext.recipe.state import DONE, STALE, StageState
from espnet_ext.recipe.submit import Records, kind_of, progress_of
from espnet_ext.recipe.systems import load_systems

#: Stages that rows share, and those that each runs for itself.
LAST_SHARED, FIRST_OWN, LAST_OWN = 7, 8, 11
#: The first stage with a part for the starting model.
FIRST_START = 9
#: Of a row: others stand on its starting model and run beside it, which is left to `Matrix.start_steps`.
OWN = ("--models", "own")
#: In the environment of the job that chooses, once the rows have ended.
FINISH = "ESPNET_EXT_MATRIX_FINISH"


@dataclass
class Step:
    """Something to run: a stage that rows share, or a row."""

    name: str
    arguments: list[str]  # of asr.sh
    environment: dict[str, str]
    kind: str
    states: list[StageState]
    progress: tuple[str, ...] = ()
    row: Row | None = None

    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(state.status().state == DONE for state in self.states)


class Matrix:
    """The rows of a file, and what is known about each."""

    def __init__(self, driver):
        """Read the file.

        Raises:
            UserError: it is not as `plan` says, or two rows contradict each other.
        """
        self.driver = driver
        self.file = driver.config_file(driver.values["matrix"])
        self.plan = read_plan(Path(self.file), load_systems())
        self.expdir = Path(driver.values["expdir"])
        self.records = Records(driver.values["expdir"])
        drop = ["--matrix=", "--submit=false", "--status=false", "--cancel=false", "--preflight=false"]
        self.base = [*driver.arguments, *self.plan.options, *drop]

    def driver_of(self, arguments: list[str]):
        """A driver with further arguments, parsed."""
        driver = type(self.driver)(self.driver.template, [*self.base, *arguments], self.driver.submitter)
        driver.program = self.driver.program
        driver.parse()
        return driver

    @cached_property
    def drivers(self) -> dict[str, object]:
        """A parsed driver for each row."""
        return {row.name: self.driver_of([*row.arguments, *OWN]) for row in self.plan.rows}

    @cached_property
    def whole_drivers(self) -> dict[str, object]:
        """The same with all test sets: stages 1 to 7 prepare them, whoever decodes them."""
        return {
            row.name: self.driver_of([*row.whole, *OWN]) if row.dev_only else self.drivers[row.name]
            for row in self.plan.rows
        }

    def shared_steps(self) -> list[Step]:
        """Stages 1 to 7 of all rows, each state once.

        Raises:
            UserError: two rows want the same state with different options.
        """
        steps: dict[tuple, Step] = {}
        wanted: dict[Path, tuple[str, dict]] = {}
        for row in self.plan.rows:
            driver = self.whole_drivers[row.name]
            for number in range(1, LAST_SHARED + 1):
                parts = [stage for stage in driver.stages() if stage.number == number]
                states = [driver.state_of(stage) for stage in parts]
                for state in states:
                    other, options = wanted.setdefault(state.file, (row.name, state.counted))
                    if options != state.counted and not _own(row, state):
                        name = next(n for n in state.counted if options.get(n) != state.counted[n])
                        raise UserError(
                            f"{self.file}: {other} and {row.name} share {state.stage} of {state.scope}, "
                            f"and differ in its option {name}"
                        )
                key = tuple(state.file for state in states if not _own(row, state))
                if not key or key in steps:
                    continue
                # Of all its parts: a part of one method or of one row makes a step of its own.
                scopes = dict.fromkeys(state.scope for state in states if not _own(row, state))
                scope = "".join(f"@{each}" for each in scopes if each != "recipe")
                steps[key] = Step(
                    f"{number:02}_{parts[0].name}{scope}",
                    [*self.base, *row.whole, *_only(number)],
                    {},
                    kind_of(parts),
                    states,
                    progress_of(parts, driver.values),
                )
        return sorted(steps.values(), key=lambda step: step.name[:2])

    def start_steps(self) -> list[Step]:
        """Export, decoding and scores of the starting models.

        Each with the options of the row that asks for most (calibration, say), test sets included.
        Trained models that decode together ask for nothing: they stand on no starting model.
        """
        steps: dict[str, Step] = {}
        for row in self.plan.rows:
            arguments = [*row.whole, "--models", "start", *_only(FIRST_START, LAST_OWN)]
            driver = self.driver_of(arguments)
            name = f"start@{driver.values['pretrain_name'].removeprefix('pretrain_')}"
            step = Step(name, [*self.base, *arguments], {}, "decode", _states(driver, FIRST_START))
            if len(step.states) > (len(steps[name].states) if name in steps else 0):
                steps[name] = step
        return list(steps.values())

    def row_step(self, row: Row) -> Step:
        """Stages 8 to 11 of a row."""
        driver = self.drivers[row.name]
        states = _states(driver, FIRST_OWN)
        if row.dev_only:
            # A point that was chosen has decoded the test sets since.
            whole = _states(self.whole_drivers[row.name], FIRST_OWN)
            if all(state.status().state == DONE for state in whole):
                states = whole
        return Step(
            row.name,
            [*self.base, *row.arguments, *OWN, *_only(FIRST_OWN, LAST_OWN)],
            {SHARED: "true"},
            "train",
            states,
            progress_of([state.stage for state in states], driver.values),
            row,
        )

    def trained(self, row: Row) -> StageState:
        """State of a row's stage 8."""
        driver = self.drivers[row.name]
        return next(driver.state_of(s) for s in driver.stages() if s.number == FIRST_OWN and not s.part)

    def changed(self) -> list[tuple[Row, str]]:
        """Rows that exist with other options or inputs; they are not run again unless that is asked for."""
        found = []
        for row in self.plan.rows:
            status = self.trained(row).status()
            if status.state == STALE:
                found.append((row, status.why))
        return found

    def to_do(self, rows: list[Row]) -> list[Step]:
        """Rows that are to be run: not those that are there, be it with other options."""
        changed = {row.name for row, _ in self.changed()}
        if self.driver.values["force"] == "true":
            changed = set()
        return [step for step in map(self.row_step, rows) if not step.done() and step.name not in changed]

    def tell_changed(self) -> None:
        """Say which rows are left as they are."""
        if self.driver.values["force"] == "true":
            return
        for row, why in self.changed():
            print(f"{row.name} exists, but not as asked for ({why}): left as it is; --force runs it again")

    def gpus(self, step: Step) -> int:
        """GPUs of a step."""
        return 0 if step.kind == "cpu" else int(self.driver.values["ngpu"])

    def mine(self) -> list[dict]:
        """Records of what was submitted of matrices in this folder."""
        return [record for record in self.records.read() if "steps" in record]

    def jobs(self) -> dict[str, tuple[dict, object]]:
        """Record and look of what was submitted, by step."""
        mine = self.mine()
        if not mine:
            return {}
        found = {}
        for record, looks in zip(mine, self.driver.submitter().look(mine), strict=True):
            found |= {name: (record, look) for name, look in zip(record["steps"], looks, strict=True)}
        return found

    def score(self, row: Row, data: str) -> float | None:
        """A row's error rate in percent on a set, in the decoding that choices go by; None without one."""
        values = self.drivers[row.name].values
        decoding = self.plan.decoding or values["decode_configs"].split()[0]
        path = Path(values["finetune_exp"], f"decode_{decoding}", data, "score/result.json")
        try:
            return float(json.loads(path.read_text(encoding="utf-8"))[FIGURES[self.plan.figure]]["rate"])
        except (OSError, ValueError, KeyError):
            return None


def _only(first: int, last: int = 0) -> list[str]:
    return ["--stage", str(first), "--stop_stage", str(last or first), "--skip_stages="]


def _states(driver, first: int) -> list[StageState]:
    """States of a driver's stages from one to the last of a row."""
    return [driver.state_of(stage) for stage in driver.stages() if first <= stage.number <= LAST_OWN]


def _own(row: Row, state: StageState) -> bool:
    """Whether a state before stage 8 is the row's alone and says nothing: the general part of stage 7."""
    return state.stage.number == LAST_SHARED and not state.stage.part
