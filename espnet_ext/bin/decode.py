"""Stage 10: recognise sets, each in one way or several, with an exported model that is loaded once."""

import argparse
import shlex
import sys
from pathlib import Path

from espnet_ext.decode.options import read_options
from espnet_ext.errors import UserError, main_guard
from espnet_ext.recipe.provenance import provenance


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="decode", description=__doc__)
    several = {"type": Path, "nargs": "+", "required": True}
    parser.add_argument(
        "--model_dir", **several, help="exported model (stage 9); several decode together, as an ensemble"
    )
    parser.add_argument("--data_dir", **several, help="dumped set (stage 3), for all or one each")
    parser.add_argument("--config", **several, help="YAML: method and its options, for all or one each")
    parser.add_argument(
        "--out_dir", **several, help="where text, token, scores, decode.json go; one for every decoding"
    )
    parser.add_argument(
        "--lm_dir", type=Path, help="language model (config.yaml, model.pth), where lm_weight > 0"
    )
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="decode on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--job", type=int, default=1, help="which part of the set to decode, from 1")
    parser.add_argument("--num_jobs", type=int, default=1, help="number of parts; merge them with --merge")
    parser.add_argument(
        "--merge", action="store_true", help="put the --num_jobs decoded parts together, and end"
    )
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not 1 <= args.job <= args.num_jobs:
        raise UserError(f"--job {args.job}: expected a number from 1 to {args.num_jobs} (--num_jobs)")
    if args.threads < 1:
        raise UserError(f"--threads {args.threads}: expected at least 1")
    sets, configs, out_dirs = _one_each(args)
    if args.merge:
        from espnet_ext.decode.output import merge_parts

        for out_dir in out_dirs:
            print(_message(out_dir, merge_parts(out_dir, args.num_jobs)), flush=True)
        return
    options = [read_options(config) for config in configs]  # before the seconds that importing torch takes
    from espnet_ext.decode.run import Task, decode_all

    tasks = [
        Task(data_dir, each, out_dir, _command(args, data_dir, config, out_dir))
        for data_dir, config, each, out_dir in zip(sets, configs, options, out_dirs, strict=True)
    ]
    more = {"gpu": bool(args.ngpu), "threads": args.threads, "job": args.job, "num_jobs": args.num_jobs}
    more["lm_dir"] = args.lm_dir
    for out_dir, summary in decode_all(args.model_dir, tasks, provenance(), **more):
        print(_message(out_dir, summary), flush=True)


def _one_each(args: argparse.Namespace) -> tuple[list[Path], list[Path], list[Path]]:
    """Set, configuration and output folder of every decoding."""
    count = len(args.out_dir)
    if len(set(args.out_dir)) < count:
        raise UserError(f"--out_dir {' '.join(map(str, args.out_dir))}: a folder occurs twice")
    lists = []
    for name in ("data_dir", "config"):
        given = getattr(args, name)
        if len(given) not in (1, count):
            raise UserError(
                f"--{name}: expected one for all or one for each of the {count} folders of --out_dir, found "
                f"{len(given)}"
            )
        lists.append(given * count if len(given) == 1 else given)
    return *lists, args.out_dir


def _command(args: argparse.Namespace, data_dir: Path, config: Path, out_dir: Path) -> str:
    """The command line that does one decoding alone."""
    values = {**vars(args), "data_dir": data_dir, "config": config, "out_dir": out_dir}
    parser = get_parser()
    given = {name: value for name, value in values.items() if value != parser.get_default(name)}
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    words = [str(word) for name, values in lists.items() for word in (f"--{name}", *values)]
    return shlex.join(["python", "-m", "espnet_ext.bin.decode", *words])


def _message(out_dir: Path, summary: dict) -> str:
    limit = summary["hit_length_limit"]
    return (
        f"{out_dir}: {summary['utterances']} utterances, {summary['audio_seconds']:.0f} s of audio in "
        f"{summary['decode_seconds']:.1f} s (RTF {summary['rtf']:.3f})"
        + (f"; {summary['empty']} empty" if summary["empty"] else "")
        + (f"; {limit} stopped by the length limit (see maxlenratio)" if limit else "")
    )


if __name__ == "__main__":
    sys.exit(main())
