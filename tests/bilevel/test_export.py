"""What comes out is a plain ESPnet model, also where the two kinds of batches have their own BatchNorm."""

import argparse
import subprocess
import sys

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as ESPnetASRTask

from espnet_ext.asr.task import ASRTask
from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.train.checkpoint import NAME
from espnet_ext.train.export import export

#: Stock ESPnet's Conformer, whose convolutions have BatchNorm.
CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "num_blocks": 1,
        "linear_units": 32,
        "cnn_module_kernel": 7,
    },
    "padding": "espnet",
    "max_epoch": 2,
}

#: Decodes in a Python where espnet_ext cannot be imported; its argument is the export's folder.
STOCK = """
import os, sys
sys.modules["espnet_ext"] = None
os.chdir(sys.argv[1])
import numpy
from espnet2.bin.asr_inference import Speech2Text
recogniser = Speech2Text("config.yaml", "model.pth", ctc_weight=0.3, beam_size=2, maxlenratio=-5)
print("text:", recogniser(numpy.random.default_rng(0).standard_normal(8000).astype("float32"))[0][0])
"""


@pytest.fixture
def conformer(corpus, command, tmp_path):
    """Function: (task, name of the YAML it is like, options) → experiment of a training of the Conformer."""

    def make(task, name: str, *extra: str):
        config = yaml.safe_load((corpus / f"{name}.yaml").read_text()) | CONFORMER
        (corpus / f"{name}_conformer.yaml").write_text(yaml.safe_dump(config))
        folder = tmp_path / name
        assert task.main(cmd=command(f"{name}_conformer", folder, *extra)) == 0
        return folder

    return make


def test_batchnorm_of_unlabelled_batches_is_not_exported(conformer, bilevel_conf):
    """With γ = 0 the export is that of supervised training, running statistics and all, to the bit."""
    plain = conformer(ASRTask, "asr")
    alone = bilevel_conf(
        warm_epochs=0, final_epochs=0, explore_steps=0, gamma_increment=0.0, gamma_maximum=0.0
    )
    both = conformer(BilevelTask, "bilevel", *alone)
    mine, theirs = (torch.load(folder / "2epoch.pth", weights_only=True) for folder in (both, plain))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    name = "encoder.encoders.0.conv_module.norm.running_mean"
    second = torch.load(both / NAME, weights_only=True)["modules"]["unlabelled_statistics"]
    assert not torch.allclose(second["seconds.0.running_mean"], mine[name])
    config = yaml.safe_load((both / "config.yaml").read_text())
    stock = ESPnetASRTask.build_model(argparse.Namespace(**config | {"specaug": None}))
    stock.load_state_dict(mine, strict=True)


def test_stock_espnet_decodes_what_a_whole_training_leaves(command, tmp_path):
    """All phases, the best two epochs averaged, and a recogniser where this package cannot be imported."""
    assert BilevelTask.main(cmd=command("bilevel", tmp_path / "exp")) == 0
    export(tmp_path / "exp", tmp_path / "export", 2)
    done = subprocess.run(
        [sys.executable, "-c", STOCK, tmp_path / "export"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "text:" in done.stdout


def test_exploration_moves_the_second_statistics_alone(conformer, bilevel_conf):
    """A warm epoch trains the encoder, and what is exported has the statistics that it began with."""
    folder = conformer(
        BilevelTask, "bilevel", *bilevel_conf(warm_epochs=1, final_epochs=0), "--max_epoch", "1"
    )
    modules = torch.load(folder / NAME, weights_only=True)["modules"]
    name = "encoder.encoders.0.conv_module.norm"
    assert int(modules["model"][f"{name}.num_batches_tracked"]) == 0
    assert float(modules["model"][f"{name}.running_mean"].abs().max()) == 0
    second = modules["unlabelled_statistics"]
    assert int(second["seconds.0.num_batches_tracked"]) > 0
    assert float(second["seconds.0.running_mean"].abs().max()) > 0
