"""Stage 5 beside ESPnet's own ``--collect_stats`` on the same data, and whether their numbers agree.

Run from the repository: ``python benchmarks/stats.py --hours 1``. A system is one process with one thread, or
two ("nj 2"; ESPnet's would then have to be aggregated). ESPnet gets two utterances as validation set, since
it insists on one. In a batch, its last frames of the shorter utterances see padding: the numbers are compared
with its run with one utterance a batch. ESPnet is started once before anything is measured.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import ROOT, record, timed
from tones import make_tones

#: ESPnet's main after our start-up hooks: shows how much of the difference is its start.
_QUICK_START = "import espnet_ext, sys; from espnet2.bin.asr_train import main; main()"


def _espnet(start: list[str], batch_size: int, out: str, keys: str = "keys") -> list[str]:
    inputs = []
    for mode, shape in (("train", keys), ("valid", "two_keys")):
        inputs += [f"--{mode}_data_path_and_name_and_type", "dump/wav.scp,speech,sound"]
        inputs += [f"--{mode}_data_path_and_name_and_type", "dump/text,text,text"]
        inputs += [f"--{mode}_shape_file", shape]
    options = [
        "--collect_stats",
        "true",
        "--batch_size",
        str(batch_size),
        "--num_workers",
        "1",
        "--decoder",
        "rnn",
    ]
    tokens = ["--token_type", "char", "--token_list", "tok/tokens.txt"]
    return [*start, *options, *tokens, "--output_dir", out, *inputs]


def _ours(nj: int) -> list[str]:
    module = [sys.executable, "-m", "espnet_ext.bin.collect_stats", "--data_dir", "dump", "--out_dir", "ours"]
    return [*module, "--token_type", "char", "--token_list", "tok/tokens.txt", "--nj", str(nj)]


def _largest_difference(one: Path, other: Path) -> float:
    """The largest relative difference of the sums of two ``feats_stats.npz``; the counts must be equal."""
    ours, theirs = np.load(one), np.load(other)
    if ours["count"] != theirs["count"]:
        sys.exit(f"different numbers of frames: {ours['count']} and {theirs['count']}")
    return max(float(np.max(np.abs(ours[key] / theirs[key] - 1))) for key in ("sum", "sum_square"))


def main() -> None:
    """Measure every system once, ESPnet's first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="hours of audio")
    arguments = parser.parse_args()
    plain = [sys.executable, "-m", "espnet2.bin.asr_train"]
    systems = {
        "espnet": [_espnet(plain, 20, "espnet20")],
        "espnet, start-up hooks": [_espnet([sys.executable, "-c", _QUICK_START], 20, "espnet20")],
        "espnet, nj 2": [_espnet(plain, 20, f"espnet20.{job}", f"keys.{job}") for job in (1, 2)],
        "espnet, batch size 1": [_espnet(plain, 1, "espnet1")],
        "ours": [_ours(1)],
        "ours, nj 2": [_ours(2)],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = functools.partial(timed, cwd=folder, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        seconds = make_tones(folder / "data", arguments.hours)
        stage = [sys.executable, "-m"]
        run([*stage, "espnet_ext.bin.make_features", "--in_dir", "data", "--out_dir", "dump"])
        tokens = ["--text", "dump/text", "--out_dir", "tok", "--token_type", "char"]
        run([*stage, "espnet_ext.bin.make_tokens", *tokens])
        lines = (folder / "dump" / "wav.scp").read_text().splitlines(keepends=True)
        half = len(lines) // 2
        keys = {"keys": lines, "keys.1": lines[:half], "keys.2": lines[half:], "two_keys": lines[:2]}
        for file, part in keys.items():
            (folder / file).write_text("".join(part))
        run([*plain, "--help"])  # else the first one reads torch and ESPnet from the disk
        reference = None
        for system, commands in systems.items():
            wall, cpu = run(*commands)
            reference = reference or (wall, cpu)
            figures = {
                "audio_seconds": round(seconds),
                "wall_seconds": round(wall, 2),
                "cpu_seconds": round(cpu, 2),
                # On a busy machine only the second ratio means anything.
                "times_faster_than_espnet": round(reference[0] / wall, 1),
                "times_less_cpu_than_espnet": round(reference[1] / cpu, 1),
            }
            if system.startswith("ours"):
                theirs = folder / "espnet1" / "train" / "feats_stats.npz"
                difference = _largest_difference(folder / "ours" / "feats_stats.npz", theirs)
                figures["largest_relative_difference"] = float(f"{difference:.1e}")
                if difference > 1e-4:
                    sys.exit(f"{system}: the statistics differ from ESPnet's by {difference:.1e}")
            record("stats", system, **figures)


if __name__ == "__main__":
    main()
