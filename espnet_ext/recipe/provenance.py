"""Who ran what where: versions, commit, host."""

import functools
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

#: Packages whose version can change a result.
PACKAGES = ("espnet", "torch", "torchaudio", "sentencepiece", "numpy", "kaldiio", "soundfile")


@functools.cache
def provenance() -> dict:
    """Host, versions and git commit (with ``+changes`` where the working tree differs from it)."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"host": socket.gethostname(), "versions": versions, "commit": commit(Path(__file__).parent)}


def commit(folder: Path) -> str | None:
    """Commit of the repository that holds a folder, None where there is no git or no repository."""
    git = ["git", "-C", str(folder)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+changes" if changed else "")
