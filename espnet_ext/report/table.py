"""Markdown tables whose source reads as well as what is made of it."""

from collections.abc import Sequence

MISSING = "missing"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int) -> str:
    """A table with aligned columns.

    Args:
        head: names of the columns.
        rows: cells; None becomes ``missing``.
        left: number of columns, from the left, that hold text; the others hold numbers and lean to the right.

    >>> print(table(["set", "WER"], [["dev", 9.5], ["test", None]], 1))
    | set  |     WER |
    |------|--------:|
    | dev  |     9.5 |
    | test | missing |
    """
    cells = [
        list(map(escape, head)),
        *([MISSING if cell is None else escape(cell) for cell in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(pairs))
        + " |"
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = (
        "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def escape(cell: object) -> str:
    """Text that stays in its cell and is no markup."""
    return str(cell).replace("|", "\\|").replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")


def duration(seconds: float | None) -> str | None:
    """Seconds as a person says them.

    >>> duration(42), duration(754), duration(4000), duration(None)
    ('42 s', '12 min 34 s', '1 h 06 min', None)
    """
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
