"""Which software made a result. Looks versions up without importing the packages."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import espnet_ext

#: Packages whose version can change a result.
PACKAGES = ("torch", "torchaudio", "espnet", "numpy", "sentencepiece", "jiwer")


def versions() -> dict[str, str]:
    """Python, the packages that matter, this package and its git commit; what is absent is called so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["espnet_ext"] = espnet_ext.__version__
    found["commit"] = _commit(Path(espnet_ext.__file__).resolve().parent)
    return found


def _commit(folder: Path) -> str:
    """Commit of the repository that ``folder`` is in, with ``+changes`` where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"
