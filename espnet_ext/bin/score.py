"""Stage 11: word, character, token and sentence error rates of a decoded set, with intervals."""

import argparse
import json
import shlex
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

from espnet_ext.bin.arguments import add_out_dir
from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_write_text
from espnet_ext.score import utterances
from espnet_ext.score.alignment import alignment_lines
from espnet_ext.score.normalise import DEFAULT, NORMALISATIONS
from espnet_ext.score.result import result, score
from espnet_ext.score.sets import UNITS, read_pair, utt2spk_beside


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="score", description=__doc__)
    parser.add_argument("--ref", type=Path, required=True, help="references: `<id> <sentence>` lines")
    parser.add_argument("--hyp", type=Path, required=True, help="hypotheses of the same utterances")
    parser.add_argument("--utt2spk", type=Path, help="who speaks (default: utt2spk beside the references)")
    parser.add_argument(
        "--normalisation", default=DEFAULT, help=f"what is done to both before: {', '.join(NORMALISATIONS)}"
    )
    parser.add_argument(
        "--unit", choices=UNITS, default="auto", help="what is counted first; auto: by the references' script"
    )
    parser.add_argument("--bpemodel", type=Path, help="SentencePiece model for token errors")
    add_out_dir(parser, "where result.json, utterances.tsv, alignment.txt go")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command. Rates in ``result.json`` are in percent."""
    args = get_parser().parse_args(argv)
    utt2spk = args.utt2spk or utt2spk_beside(args.ref)
    texts = read_pair(args.ref, args.hyp, utt2spk, args.normalisation, args.unit)
    scored = score(texts, _tokeniser(args.bpemodel))
    found = {
        **result(scored, texts),
        "ref": str(args.ref),
        "hyp": str(args.hyp),
        "command": shlex.join(
            ["python", "-m", "espnet_ext.bin.score", *(sys.argv[1:] if argv is None else map(str, argv))]
        ),
        "versions": {name: version(name) for name in ("kaldialign", "numpy", "scipy")},
    }
    split = partial(utterances.units_of, unit=texts.unit)
    sides = ([split(each) for each in side] for side in (texts.references, texts.hypotheses))
    # Taken away first and written last: where it stands, the other files belong to it.
    (args.out_dir / "result.json").unlink(missing_ok=True)
    _write_lines(args.out_dir / "alignment.txt", alignment_lines(texts.names, *sides))
    _write_lines(args.out_dir / utterances.NAME, utterances.lines(scored))
    atomic_write_text(args.out_dir / "result.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(_message(args.out_dir, found))


def _tokeniser(bpemodel: Path | None):
    if bpemodel is None:
        return None
    if not bpemodel.is_file():
        raise UserError(
            f"{bpemodel}: no such file; expected a SentencePiece model (stage 4 writes bpe.model)"
        )
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(bpemodel)).encode


def _write_lines(path: Path, lines) -> None:
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))


def _message(out_dir: Path, found: dict) -> str:
    main = "wer" if found["counted"] == "word" else "cer"
    counts = found["words" if main == "wer" else "characters"]
    interval = (found["intervals"] or {}).get(main)
    text = (
        f"{out_dir}: {main.upper()} {_percent(found[main])}"
        + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
        + f" ({counts['substitutions']} S, {counts['deletions']} D, {counts['insertions']} I of "
        f"{counts['reference']} {'words' if main == 'wer' else 'characters'})"
    )
    others = [f"{name.upper()} {_percent(found[name])}" for name in ("cer", "ter") if name != main]
    if found["ter"] is None:
        others = others[:-1]
    text += "".join(f", {each}" for each in others)
    text += f", {found['sentence_errors']} of {found['sentences']} sentences wrong ({_percent(found['ser'])})"
    return "\n".join([f"{text}; {found['normalisation']}", *(f"note: {note}" for note in found["notes"])])


def _percent(value: float | None) -> str:
    return "undefined (empty references)" if value is None else f"{value:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
