"""Download teachers of a hub, so that jobs find them in its cache: ``fetch_teachers NAME=PLACE...``.

Nodes of a cluster have no internet. What is a file or a folder, or may yet become one, is left alone.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from espnet_ext.errors import UserError, main_guard

#: Names of a hub: `owner/model` or `model`.
_HUB = re.compile(r"(?:[\w.-]+/)?[A-Za-z0-9][\w.-]*\Z")
#: The same weights for other frameworks.
IGNORED = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "*.gguf", "onnx/*", "openvino/*", "coreml/*"]


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if everything is in the cache."""
    parser = argparse.ArgumentParser(prog="fetch_teachers", description=__doc__)
    parser.add_argument("teacher", nargs="*", metavar="NAME=PLACE", help="teachers, as --teachers names them")
    parser.add_argument("--own", nargs="*", default=[], help="folders that the recipe writes")
    args = parser.parse_args(arguments)
    own = [Path(folder).resolve() for folder in args.own]
    for teacher in args.teacher:
        place = teacher.partition("=")[2] or teacher
        if is_of_a_hub(place, own):
            print(f"{place}: {fetch(place)}", flush=True)
        else:
            print(f"{place}: not of a hub", flush=True)
    return 0


def is_of_a_hub(place: str, own: list[Path]) -> bool:
    """Whether a place can only be the name of a model on a hub."""
    path = Path(place)
    if path.exists() or not _HUB.match(place):
        return False
    return not any(path.resolve().is_relative_to(folder) for folder in own)


def fetch(name: str) -> str:
    """Download a model; returns the folder in the cache.

    Raises:
        UserError: there is no such model, or no way to the hub and nothing in the cache.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"teacher {name}: neither a file nor a folder, and the package huggingface_hub, which would "
            "download it, is not installed"
        ) from None
    try:
        return snapshot_download(name, ignore_patterns=IGNORED)
    except Exception as error:
        first = error
    try:
        return snapshot_download(name, ignore_patterns=IGNORED, local_files_only=True)
    except Exception:  # whatever the client raises, the first error says why
        text = str(first).strip().splitlines()
        raise UserError(
            f"teacher {name}: is no file or folder, not in the cache ({_cache()}), and cannot be downloaded: "
            f"{type(first).__name__}: {text[0] if text else 'no message'}"
        ) from None


def _cache() -> str:
    return os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface"


if __name__ == "__main__":
    sys.exit(main())
