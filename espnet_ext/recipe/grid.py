"""A matrix as a table: states of its rows, what is chosen on the development set, hours planned and used."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.files import atomic_write_text
from espnet_ext.processes import run_through
from espnet_ext.recipe.matrix import FINISH, FIRST_OWN, OWN, Matrix, Row
from espnet_ext.recipe.state import DONE, RUNNING, STALE
from espnet_ext.recipe.usage import hours, usage_file

#: Stages that decode the test sets of a point that was chosen, and score them.
TESTS = (10, 11)


@dataclass(frozen=True)
class Choice:
    """The point of a system that is best on the development set."""

    system: str
    label: str
    mean: float
    seeds: int  # of the chosen point, that are there
    complete: bool  # all points with all seeds


class Grid:
    """What is to be told about a matrix."""

    def __init__(self, matrix: Matrix):
        """Nothing is read yet."""
        self.matrix, self.plan = matrix, matrix.plan
        self.valid = matrix.driver.values["valid_set"]
        self.seeds = list(dict.fromkeys(row.seed for row in self.plan.rows))
        self.by_place = {(row.label, row.seed): row for row in self.plan.rows}

    def show(self) -> None:
        """Print the grid: a line a system (and point), a column a seed."""
        from espnet_ext.recipe.driver import print_table

        jobs = self.matrix.jobs()
        shared = [
            (step, jobs.get(step.name)) for step in [*self.matrix.shared_steps(), *self.matrix.start_steps()]
        ]
        rows = [
            [step.name, "done" if step.done() else _job(job) or "to do", *_where(job)] for step, job in shared
        ]
        if "preflight" in jobs:
            rows.insert(0, ["preflight", _job(jobs["preflight"]), *_where(jobs["preflight"])])
        print_table(rows, ["shared", "state", "job", "node", "elapsed", "log"])
        print()
        cells = [
            [label, *(self._cell(self.by_place.get((label, seed)), jobs) for seed in self.seeds)]
            for label in self.plan.labels
        ]
        print_table(cells, [f"{self.plan.figure} on {self.valid}", *(f"seed {seed}" for seed in self.seeds)])
        open_jobs = [(name, *jobs[name]) for row in self.plan.rows if (name := row.name) in jobs]
        open_jobs = [
            (name, record, look) for name, record, look in open_jobs if look.alive or look.state != "done"
        ]
        if open_jobs:
            print()
            table = [
                [name, _job((record, look)), *_where((record, look))] for name, record, look in open_jobs
            ]
            print_table(table, ["row", "state", "job", "node", "elapsed", "log"])
        print()
        print("\n".join(self._summary()))

    def _cell(self, row: Row | None, jobs) -> str:
        if row is None:
            return ""
        state = self.state(row)
        if state == DONE:
            score = self.matrix.score(row, self.valid)
            return "done" if score is None else f"{score:.2f}"
        job = jobs.get(row.name)
        # What Slurm knows counts until the row has a state of its own.
        return (_job(job) if job and (job[1].alive or state == "to do") else "") or state

    def state(self, row: Row) -> str:
        """A row's state: done if its scores are there, else that of its first stage that is not done."""
        for state in self.matrix.row_step(row).states:
            status = state.status()
            if status.state != DONE:
                if state.stage.number > FIRST_OWN and status.state == "to do":
                    return "trained"
                return status.state
        return DONE

    def choices(self) -> list[Choice]:
        """The best point of each system with a sweep, by the mean over its seeds that are there, on dev."""
        found = []
        for system in dict.fromkeys(row.system for row in self.plan.rows if row.dev_only):
            rows = [row for row in self.plan.rows if row.system == system]
            scores: dict[str, list[float]] = {}
            for row in rows:
                if self.state(row) == DONE and (score := self.matrix.score(row, self.valid)) is not None:
                    scores.setdefault(row.label, []).append(score)
            if not scores:
                continue
            # Points with fewer seeds are not comparable with points with more.
            most = max(map(len, scores.values()))
            means = {label: sum(each) / len(each) for label, each in scores.items() if len(each) == most}
            best = min(means, key=lambda label: (means[label], label))
            complete = sum(map(len, scores.values())) == len(rows)
            found.append(Choice(system, best, means[best], most, complete))
        return found

    def finish(self) -> int:
        """Decode the test sets with the chosen points, and write the report."""
        environment = {name: value for name, value in os.environ.items() if name != FINISH}
        worst = 0
        for choice in self.choices():
            if not choice.complete:
                print(f"{choice.system}: the sweep is not complete; no test set is decoded yet")
                continue
            for row in self.plan.rows:
                if row.label != choice.label:
                    continue
                command = [str(self.matrix.driver.template / "asr.sh"), *self.matrix.base, *row.whole]
                command += [*OWN, "--stage", str(TESTS[0]), "--stop_stage", str(TESTS[-1]), "--skip_stages="]
                if "SLURM_JOB_ID" in os.environ:
                    command += ["--cmd_backend", "slurm"]
                if self._is_tested(row):
                    continue
                print(f"{choice.label} was chosen on {self.valid}: {shlex.join(command)}", flush=True)
                worst = run_through(command, environment) or worst
        text = self._report()
        folder = Path(self.matrix.driver.values["expdir"]) / "report"
        stem = Path(self.matrix.file).stem
        atomic_write_text(folder / f"{stem}.md", text)
        atomic_write_text(folder / f"{stem}.json", json.dumps(self.facts(), indent=1) + "\n")
        print(text)
        print(f"{folder / stem}.md")
        done = sum(self.state(row) == DONE or bool(self._tested(row)) for row in self.plan.rows)
        return worst or (0 if done == len(self.plan.rows) else 1)

    def _is_tested(self, row: Row) -> bool:
        """Whether nothing, the way to decode, say, has changed since the test sets were decoded."""
        if not self._tested(row) or row.name in {changed.name for changed, _ in self.matrix.changed()}:
            return bool(self._tested(row))  # a row that is not as asked for is left as it is
        driver = self.matrix.whole_drivers[row.name]
        states = [driver.state_of(stage) for stage in driver.stages() if stage.number in TESTS]
        return all(state.status().state == DONE for state in states)

    def _tested(self, row: Row) -> dict[str, float]:
        """Scores on the test sets."""
        sets = self.matrix.driver.values["test_sets"].split()
        scores = {name: self.matrix.score(row, name) for name in sets if name != self.valid}
        return {name: score for name, score in scores.items() if score is not None}

    def facts(self) -> dict:
        """Rows with states, scores and hours; choices."""
        rows = []
        for row in self.plan.rows:
            spent, on_gpus, unknown = hours(usage_file(self.matrix.expdir, row.name))
            rows.append(
                {
                    "experiment": row.name,
                    "system": row.system,
                    "point": row.point,
                    "seed": row.seed,
                    "state": self.state(row),
                    "dev": self.matrix.score(row, self.valid),
                    "test": self._tested(row),
                    "hours": round(spent, 4),
                    "gpu_hours": round(on_gpus, 4),
                    "killed_runs": unknown,
                }
            )
        return {"rows": rows, "choices": [vars(choice) for choice in self.choices()]}

    def _summary(self) -> list[str]:
        facts = self.facts()["rows"]
        left = [row for row in facts if row["state"] != DONE and not row["test"]]
        used, on_gpus = sum(row["hours"] for row in facts), sum(row["gpu_hours"] for row in facts)
        shared = hours(usage_file(self.matrix.expdir, "shared"))
        lines = [f"{len(facts) - len(left)} of {len(facts)} rows are done"]
        if left:
            states: dict[str, int] = {}
            for row in left:
                states[row["state"]] = states.get(row["state"], 0) + 1
            lines[0] += " (" + ", ".join(f"{count} {state}" for state, count in states.items()) + ")"
        killed = sum(row["killed_runs"] for row in facts)
        lines.append(
            f"used: {on_gpus + shared[1]:.2f} GPU hours ({used + shared[0]:.2f} hours of jobs"
            + (f", and {killed} run(s) that were killed or still go on" if killed else "")
            + ")"
        )
        lines.append(f"planned for the rows that are left: {self._planned(facts, left)}")
        for choice in self.choices():
            how = "" if choice.complete else "; the sweep is not complete, this may change"
            lines.append(
                f"{choice.system}: {choice.label} is best on {self.valid}, {choice.mean:.2f} "
                f"(mean of {choice.seeds} seed(s){how})"
            )
        return lines

    def _planned(self, facts: list[dict], left: list[dict]) -> str:
        total = 0.0
        for row in left:
            hours_of = self.plan.gpu_hours
            guess = hours_of.get(row["system"], hours_of.get("default"))
            if guess is None:
                same = [
                    each["gpu_hours"]
                    for each in facts
                    if each not in left and each["system"] == row["system"]
                ]
                same = same or [each["gpu_hours"] for each in facts if each not in left]
                if not same:
                    return "not known before a row is done; say it with gpu_hours in the file"
                guess = sum(same) / len(same)
            total += float(guess)
        return f"{total:.2f} GPU hours"

    def _report(self) -> str:
        figure, sets = self.plan.figure.upper(), self.matrix.driver.values["test_sets"].split()
        chosen = {choice.label: choice for choice in self.choices()}
        lines = [f"# {self.matrix.file}", "", *(f"- {line}" for line in self._summary()), ""]
        lines.append(f"{figure} in percent, mean over the seeds that are done.")
        lines += [f"Points of a sweep are chosen on {self.valid} alone.", ""]
        lines += ["| | seeds | " + " | ".join([self.valid, *sets]) + " |", "|---" * (3 + len(sets)) + "|"]
        for label in self.plan.labels:
            rows = [row for row in self.plan.rows if row.label == label]
            dev = [score for row in rows if (score := self.matrix.score(row, self.valid)) is not None]
            cells = [_mean(dev)]
            for name in sets:
                scores = [tested[name] for row in rows if name in (tested := self._tested(row))]
                cells.append(
                    _mean(scores) + (f" ({len(scores)})" if scores and len(scores) < len(dev) else "")
                )
            mark = " (chosen)" if label in chosen else ""
            part = f"{len(dev)} of {len(rows)}"
            lines.append(f"| {label}{mark} | {part} | " + " | ".join(cells) + " |")
        missing = [
            row.name
            for row in self.plan.rows
            if self.state(row) in (STALE, RUNNING) or self.matrix.score(row, self.valid) is None
        ]
        if missing:
            lines += ["", f"Not done, or not with these options: {', '.join(missing)}"]
        return "\n".join(lines) + "\n"


def _mean(scores: list[float]) -> str:
    return f"{sum(scores) / len(scores):.2f}" if scores else ""


def _job(job) -> str:
    if not job:
        return ""
    look = job[1]
    return look.state + (f" ({look.why})" if look.why and look.why != "None" else "")


def _where(job) -> list[str]:
    if not job:
        return ["", "", "", ""]
    record, look = job
    elapsed = f"{look.elapsed:.0f} s" if look.elapsed else ""
    return [record["job"], look.node, elapsed, record["log"]]
