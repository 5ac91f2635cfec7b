"""``index.html``: one page that needs nothing beside it, no network and no library.

Style and scripts are put into it; all contents are JSON, which the scripts turn into text nodes. The page's
policy allows these very scripts alone, so a transcript can do nothing even if it found a way into the markup.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.report.audio import Player
from espnet_ext.report.collect import Collection
from espnet_ext.report.page_data import page_data
from espnet_ext.report.statistics import Drawn

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = "dom table charts rates curves errors utterances main".split()


def render(results: dict, found: Collection, drawn: Sequence[Drawn], out_dir: Path, room: int) -> str:
    """The page.

    Args:
        results: results.json.
        found: the collection it was built from.
        drawn: for each set the table of all systems.
        out_dir: where the page will be.
        room: bytes of recordings to embed, at most.
    """
    page = page_data(results, found, drawn, Player(out_dir, room))
    kept = {name: value for name, value in results.items() if name != "stages"}
    scripts = [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    fields = {
        "policy": html.escape(policy(scripts)),
        "style": (ASSETS / "style.css").read_text(encoding="utf-8"),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
        "data": as_json({**kept, "page": page}),
    }
    parts = (ASSETS / "page.html").read_text(encoding="utf-8").split("{{")
    filled = [parts[0]]
    for part in parts[1:]:  # each field once, so that nothing in one is taken for another
        name, rest = part.split("}}", 1)
        filled += [fields[name], rest]
    return "".join(filled)


def policy(scripts: list[str]) -> str:
    """Content-Security-Policy: these scripts, audio from files and from the page, nothing else."""
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; media-src 'self' file: data:; "
        "base-uri 'none'; form-action 'none'"
    )


def as_json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment.

    >>> as_json("</script><!--&")
    '"\\\\u003c/script\\\\u003e\\\\u003c!--\\\\u0026"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=float)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    for letter, escape in escapes.items():
        text = text.replace(letter, escape)
    return text
