"""What is known about a stage: its record of the last run, and what that makes of it now.

A record is a JSON file in ``<expdir>/.stages``, named after the stage and its scope, and written whole. It
says ``running`` while the stage runs; only exit status 0 with all outputs there turns that into ``done``.
"""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.files import atomic_write_text
from espnet_ext.processes import start_of
from espnet_ext.recipe.expand import expand
from espnet_ext.recipe.fingerprint import digest, fingerprint, fingerprint_of_yaml, paths_of
from espnet_ext.recipe.options import Options
from espnet_ext.recipe.stages import Stage

DONE, STALE, FAILED, TODO = "done", "stale", "failed", "to do"
RUNNING, INTERRUPTED, PREEMPTED = "running", "interrupted", "preempted"
#: In the environment of a job that runs stages: Slurm's number of it.
JOB = "ESPNET_EXT_STAGE_JOB"


@dataclass(frozen=True)
class Status:
    """State of a stage, with the reason or the time in words."""

    state: str
    why: str = ""


class StageState:
    """A stage with the options of this call: its paths, its record, its status."""

    def __init__(self, stage: Stage, options: Options, config_file):
        """Fill the stage's paths.

        Args:
            stage: the stage.
            options: parsed options.
            config_file: function from a configuration file's name to the file that is used.
        """
        self.stage = stage
        self.values: Mapping[str, str] = options.values
        self.scope = expand(stage.scope, self.values)
        own = [option.name for option in options.table.values() if stage.name in option.stages]
        self.counted = {name: self.values[name] for name in [*stage.options, *own]}
        self.inputs = paths_of(stage.inputs, self.values, options.lists)
        self.outputs = paths_of(stage.outputs, self.values, options.lists)
        self.configs: dict[str, str] = {}  # configuration file: the option that names it
        for name in stage.options:
            option = options.table.get(name)
            if option and option.type == "config" and self.values[name]:
                self.configs[config_file(self.values[name])] = name
            elif option and option.type == "configs":
                for word in self.values[name].split():
                    self.configs[config_file(option.file.format(word))] = name
        self.inputs.update(dict.fromkeys(self.configs, False))
        suffix = "" if self.scope == "recipe" else f"@{self.scope}"
        self.file = Path(self.values["expdir"]) / ".stages" / f"{stage.number:02}_{stage.label}{suffix}.json"
        #: Is there until a training that is to start anew has got so far (`fresh` of stage.sh takes it away).
        self.anew = self.file.with_suffix(".anew")

    def record(self) -> dict | None:
        """The record of the last run, None if there is none (or none that can be read)."""
        try:
            return json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def prints(self) -> dict:
        """What decides about the result, as it is now: options, script and inputs."""
        return {
            "options": self.counted,
            "script": digest(self.stage.code().encode()),
            "inputs": {path: self._fingerprint(path) for path in self.inputs},
        }

    def _as_now(self, path: str, was: str) -> str:
        """A configuration's fingerprint of a version that counted its comments, if it is the same file."""
        same = path in self.configs and was == fingerprint(Path(path))
        return self._fingerprint(path) if same else was

    def _fingerprint(self, path: str) -> str:
        return (fingerprint_of_yaml if path in self.configs else fingerprint)(Path(path))

    def changes(self, record: Mapping) -> str:
        """How options, script and inputs differ from those of a record, in words; empty if they do not."""
        now = self.prints()
        before = {key: record.get(key) for key in now}
        before["inputs"] = {path: self._as_now(path, was) for path, was in (before["inputs"] or {}).items()}
        if before == now:
            return ""
        found = []
        for name, value in now["options"].items():
            old = (before["options"] or {}).get(name)
            if old != value:
                found.append(f"{name} was {old!r}, is {value!r}" if old is not None else f"{name} is new")
        if before["script"] != now["script"]:
            found.append(f"{self.stage.file.name} changed")
        old_inputs = before["inputs"] or {}
        found += [f"{path} changed" for path, value in now["inputs"].items() if old_inputs.get(path) != value]
        found += [f"{path} is no input any more" for path in old_inputs if path not in now["inputs"]]
        return (
            "; ".join(found[:3]) + (f"; {len(found) - 3} more" if len(found) > 3 else "") or "options changed"
        )

    def changed_files(self) -> list[str]:
        """Inputs of a finished run that are there and differ from what it read; options are not asked."""
        record = self.record()
        if record is None or record.get("state") != DONE:
            return []
        before = record.get("inputs") or {}
        return [
            path
            for path in self.inputs
            if path in before and self._fingerprint(path) not in (self._as_now(path, before[path]), "missing")
        ]

    def missing_outputs(self) -> list[str]:
        """Outputs that should be there and are not."""
        return [path for path, optional in self.outputs.items() if not optional and not os.path.lexists(path)]

    def missing_inputs(self) -> list[str]:
        """Inputs that must be there and are not."""
        return [path for path, optional in self.inputs.items() if not optional and not os.path.exists(path)]

    @property
    def trains(self) -> bool:
        """Whether it has a training: one that goes on from what is there or puts it aside (`fresh`)."""
        return bool(re.search(r"^\s*fresh ", self.stage.code(), re.M))

    def status(self) -> Status:
        """Done, stale, failed, to do, running, interrupted or preempted."""
        found = self._status()
        if not self.trains or found.state not in (FAILED, INTERRUPTED, PREEMPTED):
            return found
        changes = self.changes(self.record() or {})
        more = f"; changed since, so that --resume auto begins anew: {changes}" if changes else ""
        return Status(found.state, found.why + more)

    def _status(self) -> Status:
        record = self.record()
        if record is None:
            return Status(TODO)
        state, log = record.get("state"), ", ".join(record.get("logs", [])[:1])
        if state == RUNNING:
            return self._running(record)
        if state == FAILED:
            return Status(
                FAILED, f"status {record['exit_code']}, {record['end']}" + (f", log {log}" if log else "")
            )
        if state in (INTERRUPTED, PREEMPTED):
            return Status(state, record["end"])
        if missing := self.missing_outputs():
            return Status(
                TODO, f"{missing[0]} is missing" + (f" and {len(missing) - 1} more" if missing[1:] else "")
            )
        if changes := self.changes(record):
            return Status(STALE, changes)
        return Status(DONE, f"{record['end']}, {record['seconds']:.0f} s")

    def _running(self, record: Mapping) -> Status:
        if record["host"] != socket.gethostname():
            return Status(
                RUNNING, f"on {record['host']} since {record['start']} (from here it cannot be checked)"
            )
        if start_of(record["pid"]) == record["pid_start"]:
            return Status(RUNNING, f"process {record['pid']} since {record['start']}")
        return Status(INTERRUPTED, f"started {record['start']}, its process is gone")

    def can_resume(self) -> bool:
        """Whether the last run ended early and nothing that decides about the result has changed since.

        Whoever asks holds the lock: a run that the record calls running was killed, perhaps on another node.
        """
        record = self.record()
        if record is None or self.status().state not in (FAILED, INTERRUPTED, PREEMPTED, RUNNING):
            return False
        # One that ended before its training began anew has left an older training's files.
        return not self.anew.exists() and not self.changes(record)

    def begun_by(self, job: str) -> bool:
        """Whether the last run was in this job, of which the cluster makes another run now."""
        record = self.record()
        return bool(job) and record is not None and record.get("job") == job

    def begin(self, command: str, facts: Mapping, anew: bool = False) -> dict:
        """Write and return the record of a run that starts now.

        Args:
            command: what was typed.
            facts: of the machine and the code.
            anew: a training is not to go on from what is there.
        """
        record = {
            "stage": self.stage.label,
            "number": self.stage.number,
            "scope": self.scope,
            "state": RUNNING,
            "pid": os.getpid(),
            "pid_start": start_of(os.getpid()),
            "start": _now(),
            "began": time.time(),
            "command": command,
            "job": os.environ.get(JOB, ""),
            **facts,
            **self.prints(),
            "outputs": list(self.outputs),
            "all_options": dict(self.values),
        }
        if anew and self.trains:
            atomic_write_text(self.anew, "")  # first: killed between the two, it is not taken for older files
        self._write(record)
        return record

    def finish(self, record: dict, code: int, interrupted: bool, logs: list[str]) -> str:
        """Write how a run ended; returns its state."""
        if code == RUN_AGAIN:
            state = PREEMPTED
        elif interrupted:
            state = INTERRUPTED
        else:
            state = FAILED if code else DONE
        record.update(
            state=state,
            exit_code=code,
            end=_now(),
            seconds=round(time.time() - record["began"], 1),
            logs=logs,
        )
        self._write(record)
        return state

    def _write(self, record: Mapping) -> None:
        atomic_write_text(self.file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
