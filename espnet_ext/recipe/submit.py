"""``--submit``: a recipe's stages as jobs with dependencies; what became of them; their end.

A record, ``<expdir>/.slurm/jobs.json``, keeps the job of each stage. A stage that another submission has in
the queue is not submitted again: what needs it waits for that job.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.expand import expand
from espnet_ext.recipe.lock import locked
from espnet_ext.recipe.preflight import submit_preflight
from espnet_ext.recipe.stages import Stage
from espnet_ext.recipe.state import DONE, StageState


def kind_of(stages: Sequence[Stage]) -> str:
    """Kind of job that the parts of a stage need: of a training, of decoding, or of neither."""
    code = "\n".join(stage.code() for stage in stages)
    if "${train_cmd}" in code:
        return "train"
    return "decode" if "${decode_cmd}" in code else "cpu"


def progress_of(stages: Sequence[Stage], values) -> tuple[str, ...]:
    """Files that change when the work of these parts moves on: checkpoints, and what they name themselves."""
    code = "\n".join(stage.code() for stage in stages)
    names = dict.fromkeys(re.findall(r'--output_dir "\$\{(\w+)\}"', code))
    found = [f"{values[name]}/checkpoint.pth" for name in names if values.get(name)]
    return (*found, *(expand(path, values) for stage in stages for path in stage.grows))


def refuse_if_in_use(values) -> None:
    """Jobs would wait in vain for a driver that works in these folders now.

    Raises:
        UserError: one does.
    """
    with locked([Path(values[name]) for name in ("datadir", "dumpdir", "expdir")], wait=2.0):
        pass


class Records:
    """What has been submitted from a recipe's folder."""

    def __init__(self, expdir: str):
        """Nothing is read yet."""
        self.folder = Path(expdir) / ".slurm"
        self.file = self.folder / "jobs.json"

    def read(self) -> list[dict]:
        """All records, the oldest first."""
        try:
            return json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []

    def add(self, records: Sequence[dict]) -> None:
        """Add records; one of the same stage is replaced."""
        new = {record["unit"] for record in records}
        kept = [record for record in self.read() if record["unit"] not in new]
        atomic_write_text(self.file, json.dumps([*kept, *records], indent=1, ensure_ascii=False) + "\n")

    def locked(self):
        """Context in which nobody else submits here."""
        return locked([self.folder])


@dataclass(frozen=True)
class Unit:
    """A stage with its parts: what one job runs."""

    unit: str
    number: int
    parts: list[Stage]
    options: dict[str, str]


def unit_of(states: Sequence[StageState]) -> str:
    """Name of a stage with its parts, in the folder and with the experiment it is for."""
    return " ".join(str(state.file) for state in states)


class Submission:
    """The stages of one call of the driver as jobs."""

    def __init__(self, driver, submitter):
        """Nothing is submitted yet."""
        self.driver, self.submitter = driver, submitter
        self.records = Records(driver.values["expdir"])

    def submit(self, selected: list[Stage]) -> int:
        """Submit what is not done; returns the exit status.

        Raises:
            UserError: a stage is in the queue with other options, or Slurm refuses a job.
        """
        with self.records.locked():
            queued, ending = self._queued()
            if not queued and not ending:
                refuse_if_in_use(self.driver.values)
            # What needs the internet runs here, at once.
            if code := self.driver.run_here([stage for stage in selected if stage.login]):
                return code
            wanted = self._wanted([stage for stage in selected if not stage.login])
            self._refuse(wanted, queued)
            new: list[dict] = []
            jobs: list[str] = []
            # What else this folder has in the queue comes first: two submissions may write the same files.
            others = [r["job"] for unit, r in queued.items() if unit not in {each.unit for each in wanted}]
            others += ending
            for each in wanted:
                if found := queued.get(each.unit):
                    print(f"{each.parts[0]}: job {found['job']} is in the queue already", flush=True)
                    jobs = [found["job"]]
                    continue
                if not new and self._tries(wanted):
                    new.append(self._submit_preflight(jobs))
                    jobs = [*jobs, new[0]["job"]]
                record = self._submit_stage(each, jobs, others)
                new.append(record)
                print(f"{each.parts[0]}: job {record['job']}, log {record['log']}", flush=True)
                jobs, others = [record["job"]], []
        if not new:
            print("nothing to submit: all is done or in the queue (--status)")
        else:
            print(f"{self.driver.program} --status shows how far it is, --cancel ends it")
        return 0

    def _tries(self, wanted: list[Unit]) -> bool:
        """Whether a preflight job comes first: before trainings, unless it is not wanted."""
        trains = any(kind_of(each.parts) == "train" for each in wanted)
        return trains and self.driver.values.get("preflight", "false") != "false"

    def _wanted(self, stages: list[Stage]) -> list[Unit]:
        """From the first stage on that is not done."""
        units = []
        for number in dict.fromkeys(stage.number for stage in stages):
            parts = [stage for stage in stages if stage.number == number]
            states = [self.driver.state_of(stage) for stage in parts]
            if units or any(state.status().state != DONE for state in states):
                options = {name: value for state in states for name, value in state.counted.items()}
                units.append(Unit(unit_of(states), number, parts, options))
        return units

    @staticmethod
    def _refuse(wanted: list[Unit], queued: dict[str, dict]) -> None:
        again = None  # a stage before, that is not in the queue
        for each in wanted:
            found = queued.get(each.unit)
            if found and found["options"] != each.options:
                raise UserError(
                    f"{each.parts[0]} is in the queue with other options (job {found['job']}, log "
                    f"{found['log']}): wait for it, or end it with --cancel"
                )
            if found and again:
                raise UserError(
                    f"{each.parts[0]} is in the queue (job {found['job']}) and needs what {again} would "
                    "write again: wait for it, or end it with --cancel"
                )
            again = again or (None if found else each.parts[0])

    def _queued(self) -> tuple[dict[str, dict], list[str]]:
        """Records of jobs that wait or run, by stage; jobs that were cancelled and have not ended yet."""
        records = self.records.read()
        looks = self.submitter.look(records)
        alive = [
            record
            for record, each in zip(records, looks, strict=True)
            if any(look.alive or look.state == "unknown" for look in each)
        ]
        ending = [record["job"] for record in alive if self.submitter.is_cancelled(record)]
        return {record["unit"]: record for record in alive if record["job"] not in ending}, ending

    def _submit_stage(self, unit: Unit, jobs: list[str], others: list[str]) -> dict:
        values, kind, number = self.driver.values, kind_of(unit.parts), unit.number
        gpu = int(values.get("ngpu", 0)) if kind != "cpu" else 0
        threads = {"cpu": int(values.get("nj", 1)), "decode": int(values.get("inference_nj", 1)), "train": 0}[
            kind
        ]
        scope = self.driver.state_of(unit.parts[0]).scope
        name = f"{number:02}_{unit.parts[0].name}" + ("" if scope == "recipe" else f"@{scope}")
        record = self.submitter.submit(
            [self.submitter.work(self.driver.again(number), progress_of(unit.parts, values))],
            f"{self.records.folder}/{name}.log",
            kind,
            threads=0 if gpu else threads,
            gpu=gpu,
            after=jobs,
            after_any=others,
        )
        facts = {"unit": unit.unit, "options": unit.options, "number": number, "stage": unit.parts[0].name}
        return self._keep({**record, **facts})

    def _submit_preflight(self, jobs: list[str]) -> dict:
        record = submit_preflight(self.driver, self.submitter, self.records.folder, jobs)
        print(f"preflight: job {record['job']}, log {record['log']}", flush=True)
        return self._keep({**record, "unit": "preflight", "options": {}, "number": 0, "stage": "preflight"})

    def _keep(self, record: dict) -> dict:
        """Each job is on record at once: the login shell may die before the last one is submitted."""
        self.records.add([record])
        return record

    def status(self) -> tuple[dict[int, list[str]], list[str]]:
        """By stage number: job, state, node, elapsed, log; and what to tell of those that failed."""
        records = [record for record in self.records.read() if "number" in record]
        found: dict[int, list[str]] = {}
        hints, units = [], self._units()
        for record, (look,) in zip(records, self.submitter.look(records), strict=True):
            if record["unit"] not in units and record["number"] != 0:
                continue
            state = look.state + (f" ({look.why})" if look.why and look.why != "None" else "")
            elapsed = f"{look.elapsed:.0f} s" if look.elapsed else ""
            found[record["number"]] = [record["job"], state, look.node, elapsed, record["log"]]
            if look.hint:
                hints.append(f"{record['stage']}: the job {look.hint}")
        return found, hints

    def _units(self) -> set[str]:
        by_number: dict[int, list[StageState]] = {}
        for stage in self.driver.stages():
            by_number.setdefault(stage.number, []).append(self.driver.state_of(stage))
        return set(map(unit_of, by_number.values()))

    def cancel(self) -> int:
        """End all that this folder has in the queue."""
        jobs = self.submitter.cancel(self.records.read())
        print(f"cancelled: {' '.join(jobs)}" if jobs else "nothing of this recipe is in the queue")
        return 0
