"""Stage 11: word, character and sentence error rates of a decoded set."""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

from espnet_ext.bin.arguments import add_out_dir
from espnet_ext.errors import main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.score.alignment import alignment_lines
from espnet_ext.score.errors import count_errors, rate
from espnet_ext.score.sets import NORMALISATION, read_pair


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="score", description=__doc__)
    parser.add_argument("--ref", type=Path, required=True, help="references: `<id> <sentence>` lines")
    parser.add_argument("--hyp", type=Path, required=True, help="hypotheses of the same utterances")
    add_out_dir(parser, "where result.json, alignment.txt go")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command. Rates in ``result.json`` are in percent."""
    args = get_parser().parse_args(argv)
    names, references, hypotheses = read_pair(args.ref, args.hyp)
    score = count_errors(references, hypotheses)
    result = {
        "wer": score.words.as_dict()["rate"],
        "cer": score.characters.as_dict()["rate"],
        "ser": rate(score.sentence_errors, score.sentences),
        "unit": "percent",
        "sentences": score.sentences,
        "sentence_errors": score.sentence_errors,
        "words": score.words.as_dict(),
        "characters": score.characters.as_dict(),
        "normalisation": NORMALISATION,
        "ref": str(args.ref),
        "hyp": str(args.hyp),
        "versions": {"jiwer": version("jiwer")},
    }
    lines = alignment_lines(names, references, hypotheses, score)
    # Taken away first and written last: where it stands, the alignment belongs to it.
    (args.out_dir / "result.json").unlink(missing_ok=True)
    atomic_write_text(args.out_dir / "alignment.txt", "".join(f"{line}\n" for line in lines))
    atomic_write_text(args.out_dir / "result.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(_message(args.out_dir, result))


def _message(out_dir: Path, result: dict) -> str:
    words = result["words"]
    return (
        f"{out_dir}: WER {_percent(result['wer'])} ({words['substitutions']} S, {words['deletions']} D, "
        f"{words['insertions']} I of {words['reference']} words), CER {_percent(result['cer'])}, "
        f"{result['sentence_errors']} of {result['sentences']} sentences wrong ({_percent(result['ser'])})"
    )


def _percent(value: float | None) -> str:
    return "undefined (empty references)" if value is None else f"{value:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
