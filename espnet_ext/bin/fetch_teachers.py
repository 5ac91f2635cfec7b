"""Download teachers of a hub, so that jobs find them in its cache: ``fetch_teachers NAME=PLACE...``.

Nodes of a cluster have no internet. What is a file or a folder, or may yet become one, is left alone.
With ``--check`` nothing is downloaded: what can be no teacher of distillation is refused, and so are weights
and settings of stage 7 that do not fit. With ``--student`` teachers that are there are loaded, too.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.errors import UserError, main_guard

if TYPE_CHECKING:
    from espnet_ext.distillation.options import TeacherConf

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
    parser.add_argument("--check", action="store_true", help="look at NAME=PLACE alone, and fetch nothing")
    parser.add_argument("--config", type=Path, help="with --check: YAML of stage 7, told of each teacher")
    parser.add_argument("--weights", nargs="*", default=[], help="with --check: NAME=W, as --teacher_weights")
    parser.add_argument(
        "--student", type=Path, help="with --check: the student's YAML, whose frames are wanted"
    )
    args = parser.parse_args(arguments)
    own = [Path(folder).resolve() for folder in args.own]
    if args.check:
        check(args.teacher, own, args.config, args.weights, args.student)
        return 0
    for teacher in args.teacher:
        place = teacher.partition("=")[2] or teacher
        if is_of_a_hub(place, own):
            print(f"{place}: {fetch(place)}", flush=True)
        else:
            print(f"{place}: not of a hub", flush=True)
    return 0


def check(
    teachers: list[str],
    own: list[Path],
    config: Path | None,
    weights: list[str],
    student: Path | None = None,
) -> None:
    """Say what each teacher of distillation is, as far as its place tells it, and what is wanted of it.

    Raises:
        UserError: a word that is not NAME=PLACE, a name twice, a place that holds no teacher, a weight of
            none of them, or settings that stage 7 would refuse; with a student, a teacher that does not load,
            or whose layers, sample rate or frame rate do not fit.
    """
    from espnet_ext.distillation.options import parse_places, parse_weights, target_conf
    from espnet_ext.distillation.teachers import kind_of
    from espnet_ext.recipe.options import read_yaml

    places = parse_places(teachers)
    shares = parse_weights(weights, list(places))
    conf = target_conf(read_yaml(config), config) if config else None
    for name, place in places.items():
        path = Path(place)
        if not path.exists() and any(path.resolve().is_relative_to(folder) for folder in own):
            what = "not there yet"
        elif (what := kind_of(place)) == "huggingface" and not path.exists():
            if not is_of_a_hub(place, own):
                raise UserError(f"teacher {place}: no such file or folder, and no name on a hub either")
            what = "no file or folder: stage 7 looks for a model of this name on the HuggingFace hub"
        print(f"{name}={place}: {what}", flush=True)
        if student and conf and path.exists() and not any(path.resolve().is_relative_to(f) for f in own):
            _fits(name, place, conf.of(name), read_yaml(student))
        if conf:
            wanted = conf.of(name)
            left_out = "" if shares.get(name) else "; its weight is 0: not used"
            # Indented, and so for the screen: a name that the YAML does not know gets what it says of none.
            print(
                f"  layer {wanted.layer}, reduce {wanted.reduce}, stored as {wanted.storage}"
                + ("" if name in conf.teachers else f" ({config} has no settings of {name})")
                + left_out,
                flush=True,
            )
    if conf and (others := sorted(set(map(str, conf.teachers)) - set(places))):
        print(f"  {config} has settings of {', '.join(others)}, which is no teacher here", flush=True)


def _fits(name: str, place: str, wanted: "TeacherConf", student: Mapping) -> None:
    """Load a teacher, and hold it against the student.

    Raises:
        UserError: as stage 7 would.
    """
    from espnet_ext.data.lengths import sample_rate
    from espnet_ext.distillation.frames import reduction_factor
    from espnet_ext.distillation.streaming import frame_shift_of
    from espnet_ext.distillation.teachers import check_rate, load_teacher

    teacher = load_teacher(place, wanted.layer, wanted.long)
    check_rate(teacher, name, sample_rate((student.get("frontend_conf") or {}).get("fs", 16000)))
    reduction_factor(teacher.shift, frame_shift_of(student), name)


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
