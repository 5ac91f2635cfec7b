#!/usr/bin/env python3
"""LibriSpeech to Kaldi-style data directories, from a copy on disk or downloaded from OpenSLR."""

import argparse
import shutil
import sys
from pathlib import Path

from librispeech.corpus import find_corpus, read_speakers, read_subset
from librispeech.datadir import data_name, union, write_set
from librispeech.download import fetch
from librispeech.subsets import MD5

from espnet_ext.errors import UserError, main_guard

#: The set made of all development subsets that are there.
COMBINED = "dev"


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data_dir", default="", help="folder that holds LibriSpeech/, or that folder; empty: download it")
    add("--out_dir", type=Path, required=True, help="where the data directories go")
    add("--subsets", nargs="+", required=True, help="subsets to prepare, as train-clean-100")
    add("--need", nargs="*", default=[], help="data directories without which it is an error, as dev")
    add("--download_dir", type=Path, required=True, help="where a download goes")
    add("--url", required=True, help="folder of the archives on a server")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Find or fetch the corpus, read it, write it, and say what there is."""
    options = get_parser().parse_args(argv)
    for subset in options.subsets:
        if subset not in MD5:
            raise UserError(f"--subsets {subset}: LibriSpeech has the subsets {', '.join(MD5)}")
    if options.data_dir:
        corpus = find_corpus(Path(options.data_dir))
    else:
        corpus = fetch(options.subsets, options.download_dir, options.url)
    present = [subset for subset in options.subsets if (corpus / subset).is_dir()]
    _check_needed(options.need, present, corpus)
    speakers = read_speakers(corpus / "SPEAKERS.TXT")
    # Everything is read before anything is written: a mistake in the last subset leaves no half corpus.
    sets = {data_name(subset): read_subset(corpus / subset) for subset in present}
    if parts := [utterances for name, utterances in sets.items() if name.startswith("dev_")]:
        sets[COMBINED] = union(parts)
    for name, utterances in sets.items():
        write_set(options.out_dir / name, utterances, speakers)
        print(f"{options.out_dir / name}: {len(utterances)} utterances", flush=True)
    for subset in MD5:
        if subset not in present:
            _leave_out(subset, subset in options.subsets, corpus, options.out_dir)


def _check_needed(need: list[str], present: list[str], corpus: Path) -> None:
    """Refuse to go on without the sets that the recipe trains on, as far as they are LibriSpeech's own."""
    there = {data_name(subset) for subset in present}
    if any(name.startswith("dev_") for name in there):
        there.add(COMBINED)
    for name in need:
        if name not in there and name in {COMBINED, *map(data_name, MD5)}:
            raise UserError(
                f"{corpus}: no data for the set {name!r}, which this recipe trains with; found the subsets "
                f"{', '.join(present) or '(none)'}. Expected a copy of LibriSpeech with the subset's folder, "
                "as OpenSLR's archives unpack to (see --data_dir and --subsets), or other sets "
                "(--pretrain_set, --train_set, --valid_set)"
            )


def _leave_out(subset: str, wanted: bool, corpus: Path, out_dir: Path) -> None:
    """Say that a subset is absent, and remove what an earlier copy of the corpus left of it."""
    if wanted:
        print(f"{corpus / subset} is not there: this subset is left out", flush=True)
    old = out_dir / data_name(subset)
    if (old / "wav.scp").exists():
        shutil.rmtree(old)
        print(f"{old}: removed, since it was prepared from another copy or with other --subsets", flush=True)


if __name__ == "__main__":
    sys.exit(main())
