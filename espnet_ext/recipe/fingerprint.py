"""Fingerprints of files: two that are equal mean that nothing a stage reads has changed."""

import glob
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from espnet_ext.recipe.expand import expand_each

#: Bytes; larger files are compared by size and time of modification, which is quick for terabytes.
SMALL = 8 * 2**20
OPTIONAL = " ?"


def digest(data: bytes) -> str:
    """A short content hash."""
    return hashlib.sha256(data).hexdigest()[:32]


def fingerprint(path: Path) -> str:
    """``sha256:...`` of a small file, ``stat:size:time`` of a large one, ``missing``, or ``directory``."""
    try:
        if path.is_dir():
            return "directory"
        status = path.stat()
        if status.st_size > SMALL:
            return f"stat:{status.st_size}:{status.st_mtime_ns}"
        return f"sha256:{digest(path.read_bytes())}"
    except FileNotFoundError:
        return "missing"


def _plain(value) -> str | list[str]:
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


def fingerprint_of_yaml(path: Path) -> str:
    """``yaml:...`` of what a YAML file says, not of its comments; where it says nothing its `fingerprint`."""
    try:
        said = json.dumps(yaml.safe_load(path.read_bytes()), default=_plain)
    except Exception:  # what is wrong with it is told by whoever reads it
        return fingerprint(path)
    return f"yaml:{digest(said.encode())}"


def paths_of(templates: tuple[str, ...], values: Mapping[str, str], lists: set[str]) -> dict[str, bool]:
    """Paths of a header's templates, each with whether it may be absent.

    ``*`` and ``**`` stand for the files there are. Only those of the template: in an option's value ``*``
    and ``[`` are ordinary characters.
    """
    paths: dict[str, bool] = {}
    for template in templates:
        optional = template.endswith(OPTIONAL)
        template = template.removesuffix(OPTIONAL)
        if "*" not in template:
            found = expand_each(template, values, lists)
        else:
            escaped = {name: glob.escape(value) for name, value in values.items()}
            matches = (
                glob.glob(pattern, recursive=True) for pattern in expand_each(template, escaped, lists)
            )
            files = {path for group in matches for path in group if Path(path).is_file()}
            found = sorted(path for path in files if "__pycache__" not in path)
        for path in found:
            paths[path] = paths.get(path, True) and optional
    return paths
