"""The same method on a transducer, whose encoder has BatchNorm in one of the cases."""

import csv
import json

import pytest
import torch
import yaml

from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.bilevel.task import BilevelTask, BilevelTransducerTask
from espnet_ext.errors import UserError

CONFORMER = {
    "block_type": "conformer",
    "hidden_size": 16,
    "linear_size": 32,
    "heads": 2,
    "conv_mod_kernel_size": 7,
}
EBRANCHFORMER = CONFORMER | {"block_type": "ebranchformer", "depth_conv_kernel_size": 3}


def model(block: dict, vgg: bool = False) -> dict:
    return {
        "encoder_conf": {
            "input_conf": {"vgg_like": vgg, "conv_size": [8, 8] if vgg else 8, "subsampling_factor": 4},
            "body_conf": [block],
        },
        "decoder": "rnn",
        "decoder_conf": {"embed_size": 16, "hidden_size": 16},
        "joint_network_conf": {"joint_space_size": 16},
        "model_conf": {},
    }


@pytest.fixture
def transducer(corpus, training):
    """Function: (task, name of the YAML it is like, body, extra options) → Training."""

    def make(task, name: str, block: dict, *extra, vgg: bool = False):
        config = yaml.safe_load((corpus / f"{name}.yaml").read_text()) | model(block, vgg)
        for option in ("encoder", "token_type"):
            config.pop(option)
        (corpus / f"{name}_transducer.yaml").write_text(yaml.safe_dump(config | {"token_type": "char"}))
        return training(task, f"{name}_transducer", *extra)

    return make


@pytest.mark.parametrize("block", [EBRANCHFORMER, CONFORMER])
def test_gamma_zero_is_supervised_training(transducer, bilevel_conf, equal, block):
    """B2, buffers included: unlabelled batches move BatchNorm statistics of their own."""
    control = transducer(TransducerTask, "asr", block)
    options = bilevel_conf(warm_epochs=0, final_epochs=0, explore_steps=0, gamma_maximum=0.0)
    run = transducer(BilevelTransducerTask, "bilevel", block, *options)
    for each in (control, run):
        each.advance(8)
    assert equal(dict(control.model.state_dict()), dict(run.model.state_dict()))
    assert [f["loss"] for f in control.figures] == [f["loss"] for f in run.figures]
    assert all(f["loss_unsupervised"] > 0 for f in run.figures)
    second = run.method.modules.get("unlabelled_statistics")
    assert (second is not None) == (block is CONFORMER)
    if second is not None:
        (layer,) = second.seconds
        assert int(layer.num_batches_tracked) == 8 and float(layer.running_mean.abs().max()) > 0


def test_validation_uses_the_statistics_of_its_kind(transducer, bilevel_conf):
    """ℓ_unsup of the development set is computed with those of unlabelled batches, ℓ_sup with the others."""
    run = transducer(BilevelTransducerTask, "bilevel", CONFORMER, *bilevel_conf(warm_epochs=0))
    micro = run.micro("labelled")
    micro.keys = None
    run.method.train(False)

    def figures() -> tuple[float, float]:
        with torch.no_grad():
            found = run.method.validate(micro)
        return float(found["loss"][0]), float(found["loss_unsupervised"][0])

    before = figures()
    (second,) = run.method.separate.seconds
    second.running_mean += 1.0
    after = figures()
    assert after[0] == before[0] and after[1] != before[1]


def test_gradient_of_the_unsupervised_loss_stays_in_the_encoder(transducer, bilevel_conf):
    run = transducer(
        BilevelTransducerTask, "bilevel", EBRANCHFORMER, *bilevel_conf(warm_epochs=0, explore_steps=0)
    )
    run.method.gamma = 0.5
    run.method.penalty_part(run.micro("unlabelled")).loss.backward()
    for name, parameter in run.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("encoder."), name
    assert max(float(p.grad.abs().max()) for p in run.model.encoder.parameters()) > 0


def test_a_round(transducer):
    run = transducer(BilevelTransducerTask, "bilevel", EBRANCHFORMER, "--bilevel_conf", "warm_epochs=0")
    before = {n: v.clone() for n, v in run.model.named_parameters()}
    run.advance(3)
    assert [("loss" in f, "loss_unsupervised" in f) for f in run.figures] == [
        (False, True),
        (False, True),
        (True, True),
    ]
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert any(
        not torch.equal(p, before[n]) for n, p in run.model.named_parameters() if n.startswith("decoder.")
    )


def test_the_method_s_command_trains_a_transducer(corpus, command, tmp_path):
    """`--method bilevel` with a transducer's configuration: all phases, both losses, counts."""
    config = yaml.safe_load((corpus / "bilevel.yaml").read_text()) | model(EBRANCHFORMER)
    config.pop("encoder")
    criterion = [["valid", "loss", "min"]]
    config |= {"model_conf": {"auxiliary_ctc_weight": 0.3}, "best_model_criterion": criterion, "max_epoch": 3}
    (corpus / "bilevel_rnnt.yaml").write_text(yaml.safe_dump(config))
    assert BilevelTask.main(cmd=command("bilevel_rnnt", tmp_path)) == 0
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    warm, joint, final = rows
    for name in ("train_loss_transducer", "train_loss_ctc"):
        assert warm[name] == "" and float(joint[name]) > float(final[name]) > 0
    assert float(warm["train_loss_unsupervised"]) > float(joint["train_loss_unsupervised"]) > 0
    assert "joint_network_conf" in yaml.safe_load((tmp_path / "config.yaml").read_text())
    summary = json.loads((tmp_path / "train_summary.json").read_text())
    assert summary["unlabelled_batches"] == summary["batches"]["unlabelled"] > 0


def test_an_input_layer_that_pads_is_refused(transducer):
    with pytest.raises(UserError, match="cannot mask it.*vgg_like: false"):
        transducer(BilevelTransducerTask, "bilevel", EBRANCHFORMER, vgg=True)
