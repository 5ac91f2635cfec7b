"""Experiment folders as the stages leave them, small and quick to make."""

import json
import random
from pathlib import Path

from espnet_ext.bin.score import main as score

PROVENANCE = {"versions": {"python": "3.11.7", "torch": "2.11.0"}, "commit": "abc", "host": "here"}
WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima".split()


def write(path: Path, contents) -> None:
    """Write text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents), encoding="utf-8")


def make_set(folder: Path, speakers: int = 12, each: int = 4, seed: int = 0) -> list[str]:
    """References of a set, ``text`` and ``utt2spk``; returns the ids."""
    generator = random.Random(f"{folder.name} {seed}")
    names = [f"spk{speaker:02}-{number:03}" for speaker in range(speakers) for number in range(each)]
    write(folder / "text", "".join(f"{name} {' '.join(generator.choices(WORDS, k=8))}\n" for name in names))
    write(folder / "utt2spk", "".join(f"{name} {name.split('-')[0]}\n" for name in names))
    return names


def hypotheses(reference: Path, wrong: float, seed: int = 0) -> str:
    """The references with a part of the words replaced, left out or doubled."""
    generator, lines = random.Random(f"{seed} {wrong}"), []
    for line in reference.read_text(encoding="utf-8").splitlines():
        name, *words = line.split()
        heard = []
        for word in words:
            dice = generator.random() / wrong if wrong else 1
            heard += [word] if dice >= 1 else [[], ["wrong"], [word, "more"]][int(3 * dice)]
        lines.append(f"{name} {' '.join(heard)}".rstrip() + "\n")
    return "".join(lines)


def decode(
    expdir: Path, experiment: str, tag: str, dataset: Path, text: str, digest: str = "0", **more
) -> Path:
    """A decoded set that is not scored."""
    folder = expdir / experiment / f"decode_{tag}" / dataset.name
    about = {
        "rtf": 0.01234,
        "device": "cpu",
        "threads": 2,
        "jobs": 1,
        "model_sha256": digest,
        "data_dir": str(dataset),
        "command": f"python -m espnet_ext.bin.decode --out_dir {experiment}/{tag}/{dataset.name}",
    }
    write(folder / "decode.json", {**about, **PROVENANCE, **more})
    write(folder / "text", text)
    return folder


def add_result(
    expdir: Path, experiment: str, tag: str, dataset: Path, wrong: float, seed: int = 0, **more
) -> None:
    """A decoded and scored set with about this part of its words wrong."""
    folder = decode(expdir, experiment, tag, dataset, hypotheses(dataset / "text", wrong, seed), **more)
    arguments = ["--ref", dataset / "text", "--hyp", folder / "text", "--out_dir", folder / "score"]
    assert score([*map(str, arguments)]) == 0


def train(expdir: Path, experiment: str, seed: int = 1, steps: int = 300, columns: str = "", **more) -> None:
    """What a finished training leaves; ``columns`` are further ones of its history."""
    summary = {"epochs": 3, "steps": steps, "seconds": 754, "seed": seed, "parameters": 3000000}
    counts = {"batches": {"labelled": steps}, "frames": {"labelled": 1000 * steps}, "labelled_batches": steps}
    write(expdir / experiment / "train_summary.json", {**summary, **counts, **more})
    write(expdir / experiment / "export" / "export.json", {"epochs": [2, 3]})
    names = columns.split()
    head = ",".join(["epoch,step,train_loss,valid_loss,valid_acc", *names])
    rows = [
        f"{n},{n * steps // 3},{5 - n},{6 - n},0.{n}" + "".join(f",{n / 10}" for _ in names)
        for n in (1, 2, 3)
    ]
    write(expdir / experiment / "history.csv", "\n".join([head, *rows]) + "\n")


def stage(expdir: Path, number: int, name: str, scope: str, command: str = "./run.sh --seed 1") -> None:
    """The driver's record of a stage."""
    record = {"number": number, "stage": name, "scope": scope, "state": "done", "command": command}
    write(expdir / ".stages" / f"{number:02}_{name}@{scope}.json", record)
