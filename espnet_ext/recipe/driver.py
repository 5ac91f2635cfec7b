"""The driver behind ``asr.sh``: which stages to run, in which state they are, how they end."""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN, UserError
from espnet_ext.recipe.configs import known_configs
from espnet_ext.recipe.early import Early, left_stale
from espnet_ext.recipe.execute import StageRun
from espnet_ext.recipe.expand import expand
from espnet_ext.recipe.findings import LAST, findings
from espnet_ext.recipe.fingerprint import paths_of
from espnet_ext.recipe.lock import SHARED, locked
from espnet_ext.recipe.options import Options, load_options, read_yaml
from espnet_ext.recipe.preflight import preflight_now
from espnet_ext.recipe.provenance import provenance
from espnet_ext.recipe.room import check_room
from espnet_ext.recipe.stages import Stage, load_stages, select_stages
from espnet_ext.recipe.state import DONE, INTERRUPTED, JOB, PREEMPTED, StageState
from espnet_ext.recipe.submit import Records, Submission
from espnet_ext.recipe.systems import load_systems

#: Definitions: of the template, and of the recipe if it has options of its own.
OPTIONS_FILE = Path("conf/options.yaml")
#: The choice that needs no plug-in.
NO_METHOD = "none"


class Driver:
    """One call of ``asr.sh`` in a recipe's folder (the working directory)."""

    def __init__(self, template: Path, arguments: list[str], submitter: Callable | None = None):
        """Read the definitions and the command line.

        Args:
            template: the folder of ``asr.sh`` with ``conf/options.yaml`` and ``stages/``.
            arguments: the command line.
            submitter: makes what submits jobs (`launch.submitter.Submitter`), for ``--submit`` and the like.
        """
        self.template, self.submitter, self.typed = template, submitter, ""
        # Beside the recipe, as usual, it is named as a person would: ../../TEMPLATE/asr1.
        beside = Path.cwd().resolve().is_relative_to(template.parents[1])
        self.template_dir = os.path.relpath(template) if beside else str(template)
        self.arguments = arguments
        files = [template / OPTIONS_FILE]
        if OPTIONS_FILE.is_file() and not OPTIONS_FILE.samefile(files[0]):
            files.append(OPTIONS_FILE)
        self.options: Options = load_options(*files)
        # run.sh says in this variable how it was called, so that what is printed can be typed again.
        self.program = os.environ.get("recipe_program", "./asr.sh")

    @property
    def values(self) -> dict[str, str]:
        """Values of the options and what is derived from them."""
        return self.options.values

    def run(self) -> int:
        """Do what the command line says; returns the exit status."""
        if {"--help", "-h"} & set(self.arguments):
            print(self.options.help(self.program), end="")
            return 0
        self.parse()
        if self.values.get("matrix"):
            from espnet_ext.recipe.matrix_run import MatrixRun

            return MatrixRun(self).run()
        stages = self.stages()
        selected = select_stages(
            stages, self.values["stage"], self.values["stop_stage"], self.values["skip_stages"]
        )
        if self.values["list"] == "true":
            print_table(
                [[str(stage.number), stage.label, stage.does] for stage in stages], ["#", "name", "does"]
            )
            return 0
        self._check_plugins()
        if self.values["status"] == "true":
            return self._print_status(stages)
        if self.values.get("cancel") == "true":
            return Submission(self, self.submitter()).cancel()
        self._check_configs(selected)
        self._check_system(selected)
        self._check_back_end()
        if self.values["dry_run"] == "true":
            return self._dry_run(selected)
        if self.values.get("preflight") == "only":
            return preflight_now(self, Records(self.values["expdir"]).folder)
        self._check_early(selected)
        if self.values.get("submit") == "true":
            return Submission(self, self.submitter()).submit(selected)
        return self.run_here(selected)

    def parse(self) -> None:
        """Read the command line."""
        self.options.parse(self._with_system(self.arguments))

    def stages(self) -> list[Stage]:
        """All stages and parts that run with these options."""
        return [stage for stage in load_stages(self.template / "stages") if stage.runs(self.values)]

    def run_here(self, selected: list[Stage]) -> int:
        """Run stages one after the other; returns the exit status."""
        folders = [Path(self.values[name]) for name in ("datadir", "dumpdir", "expdir")]
        wait = float(os.environ.get("ESPNET_EXT_LOCK_WAIT", 0))
        if not selected:
            return 0
        with locked(folders, shared=SHARED in os.environ, wait=wait) as descriptors:
            return self._run_stages(selected, self.stages(), descriptors)

    def again(self, number: int) -> list[str]:
        """The command that runs one stage of this recipe within a job."""
        own = ["--stage", str(number), "--stop_stage", str(number), "--skip_stages=", "--submit", "false"]
        return [str(self.template / "asr.sh"), *self.arguments, *own, "--cmd_backend", "slurm"]

    def _with_system(self, arguments: list[str]) -> list[str]:
        """``--system NAME`` stands for options of a ``controls.yaml``; others may be given beside it."""
        if "system" not in self.options.table:
            return arguments
        self.options.parse(arguments)
        name, given = self.values["system"], self.options.given
        self.typed = self.values.get("finetune_args", "")  # before the system's own words stand before it
        if not name:
            return arguments
        system = load_systems().find(name)
        if wrong := {"method", "tag", *system.options} & given - {"finetune_args", "pretrain_args"}:
            raise UserError(f"--{sorted(wrong)[0]} is what --system {name} decides: leave one of them out")
        defaults = {
            "method": system.method,
            "tag": system.tag_of(self.values.get("point", "")),
            "pretrain_tag": "seed${seed}",
        } | dict(system.options)
        # Further arguments of a training come behind the system's own.
        both = [
            f"--{option}={expand(system.options[option], self.values)} {self.values[option]}"
            for option in system.options
            if option in given
        ]
        self.options.set_defaults(defaults, f"system {name}")
        return [*arguments, *both]

    def config_file(self, name: str) -> str:
        """The file behind the name of a configuration: the recipe's own, else the template's."""
        fallback = os.path.join(self.template_dir, name)
        return name if os.path.exists(name) or not os.path.exists(fallback) else fallback

    def state_of(self, stage: Stage) -> StageState:
        """A stage's state with these options."""
        return StageState(stage, self.options, self.config_file)

    def _check_plugins(self) -> None:
        """A choice that a plug-in must bring, such as a method, is refused where the plug-in is absent."""
        for option in self.options.table.values():
            value = self.values[option.name]
            if not option.plugins or value == NO_METHOD:
                continue
            found = {entry.name for entry in metadata.entry_points(group=option.plugins)}
            if value not in found:
                there = ", ".join(sorted({NO_METHOD, *found}))
                raise UserError(
                    f"--{option.name} {value}: not there yet. No installed package offers an entry point "
                    f"{value!r} in the group {option.plugins!r}; there is: {there}"
                )

    def _check_configs(self, selected: list[Stage]) -> None:
        """A configuration that does not exist is refused now, not hours later when its stage comes."""
        for stage in selected:
            for file, name in self.state_of(stage).configs.items():
                if not os.path.isfile(file):
                    # A default may be another option's value: the one that was typed is to blame.
                    same = [n for n in sorted(self.options.given) if self.values[n] == self.values[name]]
                    name = same[0] if same else name
                    raise UserError(
                        f"--{name} {shlex.quote(self.values[name])}: expected a configuration file, but "
                        f"{file} does not exist, here or in {self.template_dir}; {stage} needs it"
                        f"{known_configs(self.options.table[name], file, self.template_dir)}"
                    )

    def _check_system(self, selected: list[Stage]) -> None:
        """Numbers of a named system, as of epochs, were chosen for one configuration: refuse another."""
        name = self.values.get("system")
        if not name or "finetune" not in {stage.name for stage in selected}:
            return
        system = load_systems().find(name)
        if not system.assumes:
            return
        file = self.config_file(self.values["finetune_config"])
        differs = system.other_than_assumed(read_yaml(Path(file)))
        own, mine = (
            {word.partition("=")[0] for word in shlex.split(words) if word.startswith("--")}
            for words in (system.options.get("finetune_args", ""), self.typed)
        )
        if differs and not own <= mine:
            raise UserError(
                f"--system {name} was written for another training: {file} has {', '.join(differs)}. Its own "
                f"numbers are {system.options['finetune_args']}; say them for this training with "
                "--finetune_args"
            )

    def _check_early(self, selected: list[Stage]) -> None:
        """What later stages would refuse is refused now, where other work comes before them."""
        force = self.values["force"] == "true"
        work = [stage for stage in selected if force or self.state_of(stage).status().state != DONE]
        # The first one tells at once itself. By then it has put aside a run with other options, if any.
        if work and not self._replaces(self.state_of(work[0])):
            work = work[1:]
        Early(work, self.values, self.config_file).check(self._words)

    def _check_back_end(self) -> None:
        """Let cmd.sh refuse a back end before anything is run or written."""
        cmd_sh = "./cmd.sh" if os.path.exists("cmd.sh") else str(self.template / "cmd.sh")
        check = ["bash", "-euc", 'utils_dir=utils; . "$1"', "cmd.sh", cmd_sh]
        found = subprocess.run(
            check, env=self._environment(resume=False), stderr=subprocess.PIPE, text=True, check=False
        )
        if found.returncode:
            raise UserError(
                found.stderr.strip().removeprefix("error: ") or f"{cmd_sh} ended with {found.returncode}"
            )

    def _print_status(self, stages: list[Stage]) -> int:
        rows = []
        submitted, hints = {}, []
        if self.submitter and Records(self.values["expdir"]).read():
            submitted, hints = Submission(self, self.submitter()).status()
            if preflight := submitted.pop(0, None):
                rows.append(["0", "preflight", "", "", "", *preflight])
        for stage in stages:
            state = self.state_of(stage)
            status = state.status()
            job = submitted.get(stage.number, [""] * 5) if submitted else []
            rows.append([str(stage.number), stage.label, status.state, state.scope, status.why, *job])
        more = ["job", "in Slurm", "node", "elapsed", "log"] if submitted else []
        print_table(rows, ["#", "name", "state", "for", "", *more])
        print("".join(f"{hint}\n" for hint in hints), end="")
        return 0

    def _dry_run(self, selected: list[Stage]) -> int:
        print(f"# in {shlex.quote(os.getcwd())}, after: . ./path.sh")
        upstream = False
        for stage in selected:
            status = self.state_of(stage).status()
            if status.state == DONE and not upstream and self.values["force"] != "true":
                print(f"\n# {stage}: done, would be skipped")
                continue
            if status.state == DONE and self.values["force"] != "true":
                print(f"\n# {stage}: done; would run if a stage before it changes its inputs")
            else:
                print(f"\n# {stage}: {stage.does}", flush=True)
            upstream = True
            environment = self._environment(self._resumes(self.state_of(stage)))
            code = StageRun(stage.file, self._words(stage), environment, []).run()
            if code:
                raise UserError(f"{stage}: {stage.file} ended with status {code} in a dry run")
        return 0

    def _run_stages(self, selected: list[Stage], stages: list[Stage], descriptors: list[int]) -> int:
        for line in left_stale(stages, selected, self.state_of):
            say(line)
        for stage in selected:
            state = self.state_of(stage)
            # Rows of a matrix share stages: one runs it, the others wait and find it done.
            alone = [state.file.with_suffix(".lock.d")] if SHARED in os.environ else []
            with locked(alone, wait=math.inf) as more:
                code = self._run_or_skip(stage, state, stages, [*descriptors, *more])
            if code:
                return code
        return 0

    def _run_or_skip(
        self, stage: Stage, state: StageState, stages: list[Stage], descriptors: list[int]
    ) -> int:
        status = state.status()
        if status.state == DONE and (self.values["force"] != "true" or self._goes_on(state)):
            say(f"{stage}: done ({status.why}), nothing has changed: skipped (--force runs it again)")
            return 0
        self._check_inputs(state, stages)
        check_room(stage, self.values)
        why = f" ({status.state}: {status.why})" if status.why else ""
        say(f"{stage}: {stage.does}{why}")
        return self._run_stage(stage, state, descriptors)

    def _check_inputs(self, state: StageState, stages: list[Stage]) -> None:
        missing = state.missing_inputs()
        if not missing:
            return
        maker = next((other for other in stages if missing[0] in self.state_of(other).outputs), None)
        if maker and maker is not state.stage:
            hint = f"it is written by {maker}: run it first (--stage {maker.name} --stop_stage {maker.name})"
        elif named := [o for o in self.options.table.values() if self.values[o.name] == missing[0]]:
            hint = f"--{named[0].name} names it: {named[0].help}"
        else:
            hint = "check the options (--help) and the path"
        raise UserError(f"{state.stage} needs {missing[0]}, which does not exist; {hint}")

    def _run_stage(self, stage: Stage, state: StageState, descriptors: list[int]) -> int:
        go_on = self._resumes(state)
        facts = provenance()
        record = state.begin(shlex.join([self.program, *self.arguments]), facts, anew=not go_on)
        environment = {**self._environment(go_on), "anew_mark": str(state.anew)}
        run = StageRun(stage.file, self._words(stage), environment, descriptors)
        start = time.time()
        code = run.run()
        missing = state.missing_outputs() if code == 0 else []
        if missing:
            print(f"error: {stage} ended well but did not write {missing[0]}", file=sys.stderr)
            code = 1
        logs = self._logs(stage, start)
        result = state.finish(record, code, bool(run.signals), logs)
        if result == DONE:
            for line in findings(logs) if stage.number <= LAST else ():
                print(line, flush=True)
            say(f"{stage}: done in {record['seconds']:.0f} s")
            if run.signals:  # it was faster than the signal; the stages after it still do not run
                return 128 + run.signals[0]
            return 0
        self._explain(stage, code, result, logs)
        return 128 + run.signals[0] if result == INTERRUPTED else code

    def _resumes(self, state: StageState) -> bool:
        """Whether a training in this stage goes on from what is there."""
        resume = self.values.get("resume", "auto")
        if resume == "false" and self._goes_on(state):
            resume = "auto"
        return state.can_resume() if resume == "auto" else resume == "true"

    def _replaces(self, state: StageState) -> bool:
        """Whether a training in this stage puts aside the run that is there."""
        return state.trains and state.record() is not None and not self._resumes(state)

    @staticmethod
    def _goes_on(state: StageState) -> bool:
        """Whether this job had begun the stage and is run again: --force was for its first run."""
        again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        return again and state.begun_by(os.environ.get(JOB, ""))

    def _explain(self, stage: Stage, code: int, result: str, logs: list[str]) -> None:
        again = shlex.join([self.program, *self.arguments])
        if result == PREEMPTED:
            text = (
                f"{stage} was preempted or told to stop (status {RUN_AGAIN}); "
                f"the same command goes on from there:\n  {again}"
            )
        elif result == INTERRUPTED:
            text = f"{stage} was interrupted; what is done stays done, the same command goes on:\n  {again}"
        else:
            text = f"{stage} failed with status {code}\n"
            text += "".join(f"  log: {log}\n" for log in logs[:5])
            text += f"  run it again (what is done is skipped): {again}"
        print(f"error: {text}" if result not in (PREEMPTED, INTERRUPTED) else text, file=sys.stderr)

    def _logs(self, stage: Stage, since: float) -> list[str]:
        """Logs of a stage that were written in this run: those of failed jobs first, then the latest."""
        found = []
        for path in paths_of(stage.logs, self.values, self.options.lists):
            if os.path.exists(path) and os.stat(path).st_mtime >= since - 1:
                found.append((_failed(path), os.stat(path).st_mtime, path))
        return [path for _, _, path in sorted(found, reverse=True)]

    def _words(self, stage: Stage) -> list[str]:
        return shlex.split(self.values[stage.arguments]) if stage.arguments else []

    def _environment(self, resume: bool) -> dict[str, str]:
        """Environment of a stage script: all options, and ``resume`` as the decision for this run."""
        own = {"template_dir": self.template_dir, "resume": "true" if resume else "false"}
        own["recipe_variables"] = " ".join([*self.values, *own])
        return {**os.environ, **self.values, **own}


def _failed(log: str) -> bool:
    """Whether a job ended, by its log, neither with status 0 nor because another had failed."""
    with open(log, "rb") as handle:
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - 400))
        codes = re.findall(rb"^# Ended \(code (\d+)\)", handle.read(), re.M)
    return bool(codes) and codes[-1] not in (b"0", b"143")


def say(text: str) -> None:
    """One line of the driver's own, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def print_table(rows: list[list[str]], titles: list[str]) -> None:
    """Print columns that line up."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [titles, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
