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


#: A transducer as small.
TINY_TRANSDUCER = {
    **{name: value for name, value in TINY.items() if not name.startswith(("encoder", "decoder", "model"))},
    "encoder_conf": {
        "main_conf": {"pos_wise_act_type": "swish", "conv_mod_act_type": "swish"},
        "input_conf": {"vgg_like": False, "conv_size": 8, "subsampling_factor": 4},
        "body_conf": [
            {
                "block_type": "ebranchformer",
                "hidden_size": 16,
                "linear_size": 32,
                "heads": 2,
                "conv_mod_kernel_size": 7,
                "depth_conv_kernel_size": 3,
            }
        ],
    },
    "decoder": "rnn",
    "decoder_conf": {"embed_size": 16, "hidden_size": 16},
    "joint_network_conf": {"joint_space_size": 16},
    "model_conf": {"transducer_weight": 1.0, "auxiliary_ctc_weight": 0.3},
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

    def run(script: Path, *options, code: int = 0, cwd: Path | None = None, seconds: int = 3600) -> str:
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
