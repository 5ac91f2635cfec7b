"""Stage 10: recognise a set with an exported model."""

import argparse
import hashlib
import shlex
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.progress import progress


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="decode", description=__doc__)
    parser.add_argument("--model_dir", type=Path, required=True, help="exported model (stage 9)")
    parser.add_argument("--data_dir", type=Path, required=True, help="dumped set (stage 3)")
    parser.add_argument("--config", type=Path, required=True, help="YAML: method and its options")
    parser.add_argument(
        "--out_dir", type=Path, required=True, help="where text, token, scores, decode.json go"
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
    argv = sys.argv[1:] if argv is None else argv
    args = get_parser().parse_args(argv)
    if not 1 <= args.job <= args.num_jobs:
        raise UserError(f"--job {args.job}: expected a number from 1 to {args.num_jobs} (--num_jobs)")
    if args.threads < 1:
        raise UserError(f"--threads {args.threads}: expected at least 1")
    if args.merge:
        from espnet_ext.decode.output import merge_parts

        print(_message(args.out_dir, merge_parts(args.out_dir, args.num_jobs)))
    else:
        decode(args, argv)


def decode(args: argparse.Namespace, argv: list[str]) -> None:
    """Decode one part of a set and write its files."""
    from espnet_ext.decode.options import read_options

    options = read_options(args.config)  # before the seconds that importing torch takes
    start = time.monotonic()
    import torch

    from espnet_ext.asr.load import load_exported
    from espnet_ext.decode.batches import in_halves, make_batches
    from espnet_ext.decode.output import part_dir, summarise, write_results
    from espnet_ext.decode.recogniser import Recogniser, TokenText
    from espnet_ext.decode.source import Source
    from espnet_ext.recipe.provenance import provenance

    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no GPU here; decode with --ngpu 0")
    torch.set_num_threads(args.threads)
    model = load_exported(args.model_dir, device="cuda" if args.ngpu else "cpu")
    config = model.export_config
    source = Source(args.data_dir, _sample_rate(config), config.get("input_size"))
    recogniser, text = Recogniser(model, options), TokenText(args.model_dir, config)
    utterances = source.utterances(args.job, args.num_jobs)
    batches = make_batches(utterances, options.batch_seconds)

    def recognise(batch):
        return recogniser([source.read(each.name) for each in batch])

    def everything():
        for batch in batches:
            yield from zip(batch, in_halves(batch, recognise), strict=True)

    loaded = time.monotonic()
    found = {
        each.name: hypotheses for each, hypotheses in progress(everything(), len(utterances), "decode", "utt")
    }
    done = time.monotonic()
    summary = {
        **summarise(found, sum(each.seconds for each in utterances), loaded - start, done - loaded),
        "options": options.used(),
        "data_dir": str(args.data_dir),
        "model_dir": str(args.model_dir),
        "model_sha256": hashlib.sha256((args.model_dir / "model.pth").read_bytes()).hexdigest(),
        "device": torch.cuda.get_device_name() if args.ngpu else "cpu",
        "threads": args.threads,
        "jobs": 1,
        "command": shlex.join(["python", "-m", "espnet_ext.bin.decode", *argv]),
        **provenance(),
    }
    out_dir = args.out_dir if args.num_jobs == 1 else part_dir(args.out_dir, args.job, args.num_jobs)
    write_results(out_dir, found, text, options.nbest, summary)
    print(_message(out_dir, summary))


def _sample_rate(config: dict) -> int:
    """Sample rate in Hz that the model's front end was built for (ESPnet's default: 16k)."""
    fs = str((config.get("frontend_conf") or {}).get("fs", 16000))
    return int(fs[:-1]) * 1000 if fs.endswith("k") else int(fs)


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
