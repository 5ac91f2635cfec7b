"""Start of a process that imports ESPnet: as ESPnet is, and after `import espnet_ext`.

    python benchmarks/imports.py [--repeats 3]

One row a way, of the fastest repeat: wall clock and processor time. The ways take turns, so that a busy
machine slows all of them. ESPnet by itself asks nltk for downloads: its wall clock holds that too.
"""

import argparse
import sys

from record import ROOT, record, timed

WAYS = {
    "torch alone": "import torch",
    "espnet2.tasks.asr": "import espnet2.tasks.asr",
    "espnet_ext, then espnet2.tasks.asr": "import espnet_ext, espnet2.tasks.asr",
    "espnet_ext with ESPNET_EXT_TYPECHECK=1, then espnet2.tasks.asr": "import espnet_ext, espnet2.tasks.asr",
}


def main() -> None:
    """Measure all ways, in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way (default: 3)")
    repeats = parser.parse_args().repeats
    seconds = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, code in WAYS.items():
            checks = "1" if "TYPECHECK" in way else "0"
            command = [sys.executable, "-c", code]
            environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ESPNET_EXT_TYPECHECK": checks}
            seconds[way].append(timed(command, cwd=ROOT, **environment))
    for way, measured in seconds.items():
        wall, cpu = min(measured)
        record("imports", way, wall_s=round(wall, 2), cpu_s=round(cpu, 2), repeats=repeats)


if __name__ == "__main__":
    main()
