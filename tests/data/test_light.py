"""The data stages start without torch and ESPnet: a stage that takes a second must not import for seven."""

import subprocess
import sys

import pytest

MAINS = ("validate_data", "perturb_data", "make_features", "make_tokens", "collect_stats")
HEAVY = ("torch", "espnet2", "librosa", "kaldiio", "scipy.special")


@pytest.mark.parametrize("main", MAINS)
def test_no_heavy_import(main):
    code = (
        f"import sys, espnet_ext.bin.{main} as m; m.get_parser().format_help()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""
