"""Compute teachers' embeddings of some sets, for `--method distillation` (stage 7)."""

import argparse
import json
import sys
from pathlib import Path

from espnet_ext.data.lengths import sample_rate
from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_write_text


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="distill_targets", description=__doc__)
    add = parser.add_argument
    add(
        "--teacher",
        nargs="+",
        required=True,
        metavar="NAME=PLACE",
        help="HuggingFace folder or hub name, exported recogniser, or ESPnet SSL model (FILE.pth)",
    )
    add("--data_dir", nargs="+", required=True, help="dumped training sets (stage 3): audio, no transcripts")
    add("--other_data_dir", nargs="*", default=[], help="further sets (validation)")
    add("--out_dir", type=Path, required=True, help="a store a teacher is made in this folder")
    add("--student", type=Path, required=True, help="the student's YAML: its frame rate is wanted")
    add("--config", type=Path, help="YAML: storage, batch_seconds, and of each teacher layer, reduce, long")
    add("--job", type=int, default=1, help="which part of the shards to compute, from 1")
    add("--num_jobs", type=int, default=1, help="number of parts")
    add("--ngpu", type=int, choices=[0, 1], default=0, help="1: teachers compute on a GPU")
    add("--replace", action="store_true", help="remove embeddings of other settings")
    add("--dry_run", action="store_true", help="say how much disk and time it would take, and write nothing")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not 1 <= args.job <= args.num_jobs:
        raise UserError(f"--job {args.job}: expected a number from 1 to {args.num_jobs} (--num_jobs)")
    from espnet_ext.asr.load import read_config
    from espnet_ext.distillation.dump import Dump, DumpOptions
    from espnet_ext.distillation.options import parse_places, target_conf
    from espnet_ext.distillation.streaming import frame_shift_of
    from espnet_ext.distillation.teachers import load_teacher

    places = parse_places(args.teacher)
    conf = target_conf(read_config(args.config) if args.config else {}, args.config)
    student = read_config(args.student)
    shift = frame_shift_of(student)
    rate = sample_rate((student.get("frontend_conf") or {}).get("fs", 16000))
    dumps = []
    for name, place in places.items():
        own = conf.of(name)
        teacher = load_teacher(place, own.layer, own.long, "cuda" if args.ngpu else "cpu")
        options = DumpOptions(shift, rate, own.reduce, own.storage, conf.batch_seconds, conf.shard_seconds)
        dump = Dump(
            name, teacher, args.data_dir, args.other_data_dir, args.out_dir / name, options, args.replace
        )
        done = f"{dump.cost()}; nothing is written (--dry_run)" if args.dry_run else None
        print(done or dump.run(args.job, args.num_jobs), flush=True)
        dumps.append(dump)
    # The job that ends last finds everything there.
    if not args.dry_run and all(dump.complete() for dump in dumps):
        about = {dump.name: {"place": places[dump.name], **dump.settings} for dump in dumps}
        atomic_write_text(args.out_dir / "complete.json", json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
