"""Stage 11 beside sclite: words and characters of a set, process start included.

Run from the repository: ``python benchmarks/score.py``. The default is a set of the size of LibriSpeech's
test-clean. sclite runs twice, once for words and once for characters, as ESPnet's scoring stage lets it.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from record import record, timed


def write_side(folder: Path, side: str, sentences: list[str]) -> None:
    """Write one side for both systems; for characters sclite wants them apart, and spaces by another name."""
    names = [f"utt-{index:06d}" for index in range(len(sentences))]
    for suffix, line in (
        ("", lambda name, sentence: f"{name} {sentence}\n"),
        (".word", lambda name, sentence: f"{sentence} (s-{name})\n"),
        (".char", lambda name, sentence: f"{' '.join(sentence.replace(' ', '_'))} (s-{name})\n"),
    ):
        (folder / f"{side}{suffix}").write_text("".join(map(line, names, sentences)))


def main() -> None:
    """Measure both systems once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=2620)
    parser.add_argument("--words", type=int, default=20, help="words of an utterance")
    arguments = parser.parse_args()
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdefghij", k=draw.randrange(2, 9))) for _ in range(5000)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = [draw.choices(vocabulary, k=arguments.words) for _ in range(arguments.utterances)]
        hypotheses = [
            [draw.choice(vocabulary) if draw.random() < 0.1 else w for w in each] for each in references
        ]
        for side, sentences in (("ref", references), ("hyp", hypotheses)):
            write_side(folder, side, [" ".join(words) for words in sentences])
        ours = [
            sys.executable,
            "-m",
            "espnet_ext.bin.score",
            "--ref",
            "ref",
            "--hyp",
            "hyp",
            "--out_dir",
            "out",
        ]
        sclite = [
            [
                "sctk",
                "sclite",
                "-r",
                f"ref.{unit}",
                "trn",
                "-h",
                f"hyp.{unit}",
                "trn",
                "-i",
                "rm",
                "-o",
                "all",
            ]
            for unit in ("word", "char")
        ]
        figures = {"utterances": arguments.utterances, "words": arguments.words}
        both = [timed(each, cwd=folder) for each in sclite]
        wall, cpu = (sum(times) for times in zip(*both, strict=True))
        record("score", "sclite", **figures, wall=round(wall, 2), cpu=round(cpu, 2))
        wall, cpu = timed(ours, cwd=folder)
        record("score", "ours", **figures, wall=round(wall, 2), cpu=round(cpu, 2))


if __name__ == "__main__":
    main()
