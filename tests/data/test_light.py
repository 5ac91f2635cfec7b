"""The data stages start without torch and ESPnet: a stage that takes a second must not import for seven."""

import subprocess
import sys

import pytest

MAINS = ("validate_data", "perturb_data", "make_features", "make_tokens", "collect_stats")


@pytest.mark.parametrize("main", MAINS)
def test_no_heavy_import(main):
    code = (
        f"import sys, espnet_ext.bin.{main} as m; m.get_parser().format_help()\n"
        "print([name for name in ('torch', 'espnet2', 'librosa', 'kaldiio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""
