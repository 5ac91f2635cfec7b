"""Whether a training saves more often than its runs end."""

from collections.abc import Sequence
from pathlib import Path

import yaml

#: Of the training command, where neither its options nor its configuration say otherwise.
DEFAULT_MINUTES = 10.0


def minutes_of(limit: str) -> float | None:
    """Minutes of a time limit as Slurm spells it; None if it is none.

    >>> minutes_of("90"), minutes_of("1:30"), minutes_of("2:00:00"), minutes_of("1-12"), minutes_of("1-0:30")
    (90.0, 1.5, 120.0, 2160.0, 1470.0)
    """
    days, dash, rest = limit.rpartition("-")
    try:
        parts = [float(part) for part in rest.split(":")]
        whole = 1440.0 * float(days) if dash else 0.0
    except ValueError:
        return None
    if dash:  # days-hours[:minutes[:seconds]]
        return whole + sum(part * unit for part, unit in zip(parts, (60.0, 1.0, 1 / 60), strict=False))
    units = {1: (1.0,), 2: (1.0, 1 / 60), 3: (60.0, 1.0, 1 / 60)}.get(len(parts), ())
    return sum(part * unit for part, unit in zip(parts, units, strict=True)) if units else None


def limit_of(arguments: Sequence[str]) -> str:
    """The time limit among options of `sbatch`; empty without one."""
    for number, word in enumerate(arguments):
        if word.startswith(("--time=", "-t=")):
            return word.partition("=")[2]
        if word in ("--time", "-t") and number + 1 < len(arguments):
            return arguments[number + 1]
    return ""


def interval_warning(command: Sequence[str], arguments: Sequence[str], signal_seconds: int) -> str:
    """What to tell if a run may end before its first save; empty if there is nothing to tell.

    Args:
        command: of the training.
        arguments: of `sbatch`.
        signal_seconds: time to save ahead of the limit.
    """
    limit = minutes_of(limit_of(arguments))
    if limit is None or "--output_dir" not in command:  # of a training
        return ""
    if signal_seconds >= 60 * limit:
        return (
            f"warning: signal_seconds is {signal_seconds}, and a run lasts {limit:g} minutes at most: "
            "each run is told to end as soon as it starts. Ask for more time, or less of signal_seconds "
            "(train: in conf/slurm.yaml)"
        )
    options = _options(command)
    if int(options.get("checkpoint_steps") or 0):
        return ""
    every = float(options.get("checkpoint_minutes") or DEFAULT_MINUTES)
    if every < limit:
        return ""
    warned = (
        f"the signal {signal_seconds} s ahead of it lets the training save, but a preemption without time to "
        "save loses the whole run"
        if signal_seconds
        else "signal_seconds is 0, so a run saves nothing"
    )
    return (
        f"warning: the training saves every {every:g} minutes within an epoch, and a run lasts {limit:g} at "
        f"most: {warned}. Save more often (--checkpoint_minutes, --checkpoint_steps)"
    )


def _options(command: Sequence[str]) -> dict:
    """How often it saves, as its configuration and then its command line say."""
    found: dict = {}
    names = ("checkpoint_steps", "checkpoint_minutes")
    given = {word: command[i + 1] for i, word in enumerate(command[:-1]) if word.startswith("--")}
    given |= dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
    config = Path(given.get("--config", ""))
    if config.is_file():
        try:
            content = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            content = None  # the training says what is wrong with it
        if isinstance(content, dict):
            found = {name: content[name] for name in names if name in content}
    return found | {name: given[f"--{name}"] for name in names if f"--{name}" in given}
