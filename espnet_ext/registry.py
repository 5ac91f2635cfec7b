"""The one door to ESPnet's choice tables and to tasks that other packages bring along."""

from collections.abc import Mapping
from importlib.metadata import entry_points

from espnet_ext.errors import UserError

#: Entry-point group under which a package names its tasks: `gan = espnet_ext.gan.task:GANTask`.
TASK_GROUP = "espnet_ext.tasks"


def register(table: dict, name: str, entry: type) -> None:
    """Add a class to one of ESPnet's tables (a plain dict, as `scheduler_classes` or `ClassChoices.classes`).

    Doing it twice is harmless; taking a name that stands for something else is not allowed.

    Raises:
        ValueError: the name is not lower case (ESPnet looks names up as they are) or is taken.
    """
    if name != name.lower():
        raise ValueError(f"{name}: ESPnet's tables hold lower-case names")
    if table.get(name, entry) is not entry:
        raise ValueError(f"{name} already stands for {table[name]!r}; it cannot become {entry!r}")
    table[name] = entry


def task_names() -> Mapping[str, str]:
    """Names of all installed tasks and where each comes from (`module:class`)."""
    return {point.name: point.value for point in entry_points(group=TASK_GROUP)}


def load_task(name: str) -> type:
    """Import and return the task class called ``name``.

    Raises:
        UserError: no installed package brings a task of that name.
    """
    for point in entry_points(group=TASK_GROUP):
        if point.name == name:
            return point.load()
    raise UserError(
        f"method or task {name!r} is not installed; there are: {', '.join(sorted(task_names())) or 'none'}"
    )
