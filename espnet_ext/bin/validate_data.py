"""Check data directories: every message names the file and line at fault."""

import argparse
import sys
from pathlib import Path

from espnet_ext.data.kaldi import DataDir
from espnet_ext.errors import main_guard
from espnet_ext.files import atomic_write_text


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="validate_data", description=__doc__)
    parser.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="data directory")
    parser.add_argument(
        "--need_text", action="store_true", help="a directory without transcripts is an error"
    )
    parser.add_argument(
        "--stamp",
        action="store_true",
        help="write audio_stamp into the directory: it changes when an audio file does, as its name does not",
    )
    parser.add_argument("--no_audio", action="store_true", help="do not look whether the audio files exist")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = get_parser().parse_args(argv)
    for path in arguments.dirs:
        data = DataDir(path, need_text=arguments.need_text)
        if not arguments.no_audio:
            data.check_audio_files()
        if arguments.stamp:
            atomic_write_text(path / "audio_stamp", data.audio_stamp() + "\n")
        speakers = len(set(data.utt2spk.rows.values()))
        print(
            f"{path}: {len(data)} utterances, {speakers} speakers, {'with' if data.text else 'without'} text"
        )


if __name__ == "__main__":
    sys.exit(main())
