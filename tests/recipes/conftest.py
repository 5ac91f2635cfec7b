"""Running whole recipes, with a model so small that its process start is most of its training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.toy import TOY

TINY = {
    **TOY,
    "normalize": "global_mvn",
    "model_conf": {"ctc_weight": 0.5, "lsm_weight": 0.1},
    "max_epoch": 2,
    "frames_per_step": 4000,
    "best_model_criterion": [["valid", "loss", "min"]],
    "keep_nbest_models": 1,
}


@pytest.fixture
def tiny_options(tmp_path) -> list[str]:
    """Options of a recipe that make its model tiny and its decoding short."""
    for name, content in (("pretrain", TINY), ("finetune", {"max_epoch": 1})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    configs = [f"--{name}_config={tmp_path / name}.yaml" for name in ("pretrain", "finetune")]
    return [*configs, "--nbest", "1", "--nj", "1"]


@pytest.fixture(scope="session")
def run_recipe(repo_root):
    """Function: (script, options...) → what it printed; checks the exit status."""

    def run(script: Path, *options, code: int = 0, cwd: Path | None = None, seconds: int = 900) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(repo_root),
            "ESPNET_EXT_OWN_PYTHON": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [str(script), *map(str, options)],
            env=environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    return run
