"""How fast the synth corpus is made: times faster than real time a process, its start included.

Run from the repository: ``python benchmarks/corpus.py --scale 0.1``.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from record import ROOT, record, timed

COMMAND = ROOT / "egs2" / "synth" / "asr1" / "local" / "make_corpus.py"


def main() -> None:
    """Make a corpus in a temporary folder and record how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1, help="1 is 5.6 h of audio")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--scale", str(arguments.scale), "--nj", str(arguments.nj)]
        wall, cpu = timed([sys.executable, str(COMMAND), *options], cwd=Path(folder), PYTHONPATH=str(ROOT))
        about = json.loads((Path(folder) / "data" / "corpus.json").read_text(encoding="utf-8"))
    seconds = 3600 * sum(sizes.get("hours", 0) for sizes in about["sets"].values())
    record(
        "corpus",
        f"espeak-ng {about['espeak-ng']}, sox {about['sox']}",
        scale=arguments.scale,
        audio_seconds=round(seconds),
        nj=arguments.nj,
        wall_seconds=round(wall, 2),
        cpu_seconds=round(cpu, 2),
        times_faster_than_real_time_per_process=round(seconds / wall / arguments.nj),
    )


if __name__ == "__main__":
    main()
