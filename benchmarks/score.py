"""Stage 11 beside sclite and ESPnet's scoring, process start included; ours counts intervals too.

Run from the repository: ``python benchmarks/score.py``. The sets are of LibriSpeech test-clean's size (2,620
utterances of 20 words) and of 100,000 utterances. sclite runs twice, once for words and once for characters,
as ESPnet's scoring stage lets it; that stage starts ESPnet's tokeniser four times before. On a machine that
does other work look at ``cpu``, seconds of processor time.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record, timed

_SPEAKERS = 40


def write_sets(folder: Path, utterances: int, words: int) -> None:
    """References and hypotheses with a tenth of the words wrong, for all systems, and who speaks."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdefghij", k=draw.randrange(2, 9))) for _ in range(5000)]
    references = [draw.choices(vocabulary, k=words) for _ in range(utterances)]
    hypotheses = [
        [draw.choice(vocabulary) if draw.random() < 0.1 else w for w in each] for each in references
    ]
    names = [f"spk{index * _SPEAKERS // utterances:02d}-{index:06d}" for index in range(utterances)]
    for side, sentences in (("ref", references), ("hyp", hypotheses)):
        _write_side(folder, side, names, [" ".join(each) for each in sentences])
    (folder / "utt2spk").write_text("".join(f"{name} {name[:5]}\n" for name in names))


def _write_side(folder: Path, side: str, names: list[str], sentences: list[str]) -> None:
    """For characters sclite wants them apart, and spaces by another name."""
    for suffix, line in (
        ("", lambda name, sentence: f"{name} {sentence}\n"),
        (".word", lambda name, sentence: f"{sentence} ({name})\n"),
        (".char", lambda name, sentence: f"{' '.join(sentence.replace(' ', '_'))} ({name})\n"),
    ):
        (folder / f"{side}{suffix}").write_text("".join(map(line, names, sentences)))


def sclite(folder: Path) -> tuple[float, float]:
    """Wall clock and processor seconds of both runs."""
    runs = []
    for unit in ("word", "char"):
        sides = ["-r", f"ref.{unit}", "trn", "-h", f"hyp.{unit}", "trn"]
        runs.append(timed(["sctk", "sclite", *sides, "-i", "rm", "-o", "all"], cwd=folder))
    wall, cpu = (sum(times) for times in zip(*runs, strict=True))
    return wall, cpu


def espnet(folder: Path) -> tuple[float, float]:
    """What ESPnet's stage 13 does for words and characters of a set: four tokenisations, then sclite."""
    wall, cpu = sclite(folder)
    for side in ("ref", "hyp"):
        for kind in ("word", "char"):
            command = [sys.executable, "-m", "espnet2.bin.tokenize_text", "-f", "2-", "--input", side]
            more = timed([*command, "--output", f"{side}.tokens", "--token_type", kind], cwd=folder)
            wall, cpu = wall + more[0], cpu + more[1]
    return wall, cpu


def ours(folder: Path) -> tuple[float, float]:
    """Wall clock and processor seconds of stage 11's command."""
    command = [sys.executable, "-m", "espnet_ext.bin.score"]
    return timed([*command, "--ref", "ref", "--hyp", "hyp", "--out_dir", "out"], cwd=folder)


def measure(system: str, utterances: int, words: int) -> None:
    """One row: a set of this size, scored by one system; the memory is that of its largest process."""
    with tempfile.TemporaryDirectory() as name:
        write_sets(Path(name), utterances, words)
        wall, cpu = {"ours": ours, "sclite": sclite, "espnet": espnet}[system](Path(name))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    figures = {"utterances": utterances, "words": words, "wall": round(wall, 2), "cpu": round(cpu, 2)}
    record("score", system, **figures, peak_mb=round(peak))


def main() -> None:
    """Measure all systems once; each in a process of its own, so that memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=("ours", "sclite", "espnet"), help="one system (default: all)")
    parser.add_argument("--utterances", type=int, help="size of the set (default: 2620, and 100000 for ours)")
    parser.add_argument("--words", type=int, default=20, help="words of an utterance")
    arguments = parser.parse_args()
    if arguments.system and arguments.utterances:
        measure(arguments.system, arguments.utterances, arguments.words)
        return
    for system, utterances in (("sclite", 2620), ("espnet", 2620), ("ours", 2620), ("ours", 100_000)):
        if arguments.system in (None, system) and arguments.utterances in (None, utterances):
            options = ["--system", system, "--utterances", str(utterances), "--words", str(arguments.words)]
            subprocess.run([sys.executable, __file__, *options], check=True)


if __name__ == "__main__":
    main()
