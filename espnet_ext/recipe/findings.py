"""What jobs found in the data, for the screen as well: nobody opens the log of a job that ended well."""

import re
from collections.abc import Iterable, Iterator

#: Stages up to this one prepare data.
LAST = 5
#: Nothing is the matter with what ends so.
_PLAIN = ("every character has a token",)


def findings(logs: Iterable[str]) -> Iterator[str]:
    """Indented lines of the logs, each group below the line that it belongs to.

    A command ends with a summary of a line, and an indented line for each thing that a reader has to know, as
    what was resampled or dropped. Job 2 stands before job 10.
    """
    for log in sorted(
        logs, key=lambda name: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", name)]
    ):
        title = None
        with open(log, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                line = line.rstrip()
                if line.startswith("#") or not line.strip() or line.endswith(_PLAIN):
                    continue
                if not line.startswith("  "):
                    title = line
                    continue
                if title:
                    yield title
                    title = None
                yield line
