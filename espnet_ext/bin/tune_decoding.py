"""Stage 10, first: choose decoding weights on the development set from what a configuration lists."""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml

from espnet_ext.decode.options import DecodeOptions, read_grid
from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.recipe.provenance import provenance
from espnet_ext.score.errors import total
from espnet_ext.score.result import score
from espnet_ext.score.sets import text_set


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="tune_decoding", description=__doc__)
    add = parser.add_argument
    several = {"type": Path, "nargs": "+", "required": True}
    add("--model_dir", **several, help="exported model (stage 9); several decode together")
    add("--data_dir", type=Path, required=True, help="dumped development set; never a test set")
    add("--config", type=Path, required=True, help="YAML: method, its options, and lists under `tune:`")
    add(
        "--out",
        type=Path,
        required=True,
        help="YAML for `decode`; what each combination gave stands beside it, .json",
    )
    add(
        "--lm_dir", type=Path, help="language model (config.yaml, model.pth), where lm_weight is tuned or set"
    )
    add("--ngpu", type=int, choices=(0, 1), default=0, help="decode on a GPU")
    add("--threads", type=int, default=1, help="CPU threads")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command. What was chosen before for the same model, set and lists stays, and costs nothing."""
    args = get_parser().parse_args(argv)
    if args.threads < 1:
        raise UserError(f"--threads {args.threads}: expected at least 1")
    if args.out.suffix != ".yaml":
        raise UserError(f"--out {args.out}: expected a name that ends in .yaml")
    names, grid = read_grid(args.config)
    basis = _basis(args, grid)
    record_file = args.out.with_suffix(".json")
    if args.out.exists() and _read(record_file).get("basis") == basis:
        print(f"{args.out}: chosen before for this model, set and grid", flush=True)
        return
    from espnet_ext.decode.tuning import best, tune  # torch and ESPnet: seconds

    start = time.monotonic()
    more = {"lm_dir": args.lm_dir, "gpu": bool(args.ngpu), "threads": args.threads}
    points = tune(args.model_dir, args.data_dir, grid, _errors, **more)
    chosen = best(points)
    record = {
        "chosen": _values(chosen.options, names),
        "by": f"{', then '.join(chosen.errors)}, then the order of the grid; in percent",
        "grid": [{**_values(each.options, names), **each.errors} for each in points],
        "edges": _edges(chosen.options, grid, names),
        "data_dir": str(args.data_dir),
        "seconds": round(time.monotonic() - start, 1),
        "command": shlex.join(
            ["python", "-m", "espnet_ext.bin.tune_decoding", *(sys.argv[1:] if argv is None else argv)]
        ),
        "basis": basis,
        **provenance(),
    }
    args.out.unlink(missing_ok=True)  # where it stands, the record belongs to it
    atomic_write_text(record_file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    text = f"# Chosen on {args.data_dir} by tune_decoding; every combination's errors: {record_file.name}\n"
    atomic_write_text(args.out, text + yaml.safe_dump(chosen.options.used(), sort_keys=False))
    print(_message(args.out, record, chosen.errors), flush=True)


def _basis(args: argparse.Namespace, grid: list[DecodeOptions]) -> dict:
    """What the choice depends on."""
    files = {name: args.data_dir / name for name in ("text", "utt2num_samples", "utt2num_frames", "content")}
    for number, folder in enumerate(args.model_dir):
        of = "" if len(args.model_dir) == 1 else f" {number + 1}"
        files |= {f"model{of}": folder / "model.pth", f"model{of} config": folder / "config.yaml"}
    if args.lm_dir is not None and any(way.lm_weight > 0 for way in grid):
        files["lm"] = args.lm_dir / "model.pth"
    digests = {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()
    }
    return {"options": [asdict(way) for way in grid], "sha256": digests}


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(options: DecodeOptions, names: list[str]) -> dict[str, float]:
    return {name: getattr(options, name) for name in names}


def _edges(chosen: DecodeOptions, grid: list[DecodeOptions], names: list[str]) -> list[str]:
    """Options whose chosen value is the first or last of several: a wider list may hold a better one."""
    found = []
    for name in names:
        values = sorted({getattr(way, name) for way in grid})
        if len(values) > 1 and getattr(chosen, name) in (values[0], values[-1]):
            found.append(name)
    return found


def _errors(references, hypotheses) -> dict[str, float | None]:
    """Rates as stage 11 counts them."""
    sides = (dict(enumerate(side)) for side in (references, hypotheses))
    texts = text_set(*sides, ("transcripts", "hypotheses"))
    scored = score(texts)
    names = {"wer": "word", "cer": "char"} if texts.unit == "word" else {"cer": "char", "wer": "word"}
    return {name: total(scored.counts(unit)).as_dict()["rate"] for name, unit in names.items()}


def _message(out: Path, record: dict, errors: Mapping[str, float]) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in record["chosen"].items())
    name = next(iter(errors))
    worst = max(point[name] for point in record["grid"])
    edges = f"; at the edge of its list: {', '.join(record['edges'])}" if record["edges"] else ""
    return (
        f"{out}: {values}: {name.upper()} {errors[name]:.2f} % on {record['data_dir']}, the best of "
        f"{len(record['grid'])} ways (the worst: {worst:.2f} %), in {record['seconds']:.0f} s{edges}"
    )


if __name__ == "__main__":
    sys.exit(main())
