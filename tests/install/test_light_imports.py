"""Packages that a stage of a second uses start without torch and ESPnet."""

import importlib.util
import os
import pkgutil
import subprocess
import sys

import pytest

import espnet_ext

LIGHT = ["espnet_ext", "espnet_ext.data.kaldi", "espnet_ext.score", "espnet_ext.report", "espnet_ext.launch"]
LIGHT += ["espnet_ext.recipe"]
HEAVY = {"torch", "torchaudio", "espnet", "espnet2", "transformers", "librosa", "typeguard", "nltk"}


def modules_below(name: str) -> list[str]:
    """The module, and all modules of the package if it is one."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} does not exist"
    if name == espnet_ext.__name__ or spec.submodule_search_locations is None:
        return [name]
    return [
        name,
        *(found.name for found in pkgutil.walk_packages(spec.submodule_search_locations, f"{name}.")),
    ]


@pytest.mark.parametrize("name", LIGHT)
def test_starts_without_torch_and_espnet(name):
    imports = "\n".join(f"import {module}" for module in modules_below(name))
    code = (
        f"import sys\n{imports}\nprint(*sorted({HEAVY} & {{module.split('.')[0] for module in sys.modules}}))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"{name} imports {done.stdout.strip()}"
