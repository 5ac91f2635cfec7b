"""One picture of how the experiments learned: validation figures over optimiser steps."""

from pathlib import Path

from espnet_ext.files import atomic_path
from espnet_ext.report.collect import Experiment

_PREFIX = "valid_"
#: Panels in a row, and at most in the picture.
_COLUMNS, _PANELS = 3, 6


def plot_curves(experiments: list[Experiment], target: Path) -> bool:
    """Draw each validation column of ``history.csv`` in a panel, each experiment as a line.

    Returns:
        False, and no picture, where no experiment has such a column.
    """
    names = sorted(
        {name for each in experiments for row in each.history for name in row if name.startswith(_PREFIX)}
    )
    names = names[:_PANELS]
    if not names:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(names), _COLUMNS)
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.5 * columns, 3.5 * lines), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for each in experiments:
            points = [(row["step"], row[name]) for row in each.history if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=each.name)
        axis.set(
            title=name.removeprefix(_PREFIX).replace("_", " ") + " (validation)", xlabel="optimiser steps"
        )
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize="small")
    figure.tight_layout()
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    return True
