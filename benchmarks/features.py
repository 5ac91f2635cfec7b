"""How fast stages 2 and 3 are, process start included: times faster than real time.

Run from the repository: ``python benchmarks/features.py --hours 1 --nj 1``.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from record import ROOT, record, timed
from tones import make_tones

#: system: (command, its options, rate of the audio, kind of audio file)
SYSTEMS = {
    "raw, WAV": ("make_features", ["--feats_type", "raw"], 16000, "wav"),
    "raw, FLAC": ("make_features", ["--feats_type", "raw"], 16000, "flac"),
    "raw, resampled from 22.05 kHz": ("make_features", ["--feats_type", "raw"], 22050, "wav"),
    "fbank, WAV": ("make_features", ["--feats_type", "fbank"], 16000, "wav"),
    "speeds 0.9 and 1.1, WAV": ("perturb_data", ["--speeds", "0.9", "1.1"], 16000, "wav"),
}


def main() -> None:
    """Measure every system once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="hours of audio")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    for system, (command, options, rate, suffix) in SYSTEMS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = make_tones(Path(folder) / "data", arguments.hours, rate, suffix)
            module = [
                sys.executable,
                "-m",
                f"espnet_ext.bin.{command}",
                "--in_dir",
                "data",
                "--out_dir",
                "out",
            ]
            wall, cpu = timed(
                [*module, *options, "--nj", str(arguments.nj)], cwd=Path(folder), PYTHONPATH=str(ROOT)
            )
        times = seconds / wall * (2 if command == "perturb_data" else 1)
        record(
            "features",
            system,
            audio_seconds=round(seconds),
            nj=arguments.nj,
            wall_seconds=round(wall, 2),
            cpu_seconds=round(cpu, 2),
            times_faster_than_real_time=round(times),
            times_faster_in_cpu_seconds=round(times * wall / cpu),  # what counts on a busy machine
        )


if __name__ == "__main__":
    main()
