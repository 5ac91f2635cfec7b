"""Optimisers from ESPnet's options, the second one's as well."""

from types import SimpleNamespace

import pytest
import torch

from espnet_ext.asr.task import ASRTask


@pytest.mark.parametrize("suffix, lr, kind", [("", 0.1, torch.optim.SGD), ("2", 0.2, torch.optim.Adam)])
def test_each_optimiser_reads_its_own_options(suffix, lr, kind):
    """ESPnet's names, --optim2 and --optim2_conf; frozen parameters are left out."""
    args = SimpleNamespace(
        optim="sgd",
        optim_conf={"lr": 0.1},
        scheduler=None,
        scheduler_conf={},
        optim2="adam",
        optim2_conf={"lr": 0.2},
        scheduler2="warmupdecay",
        scheduler2_conf={"warmup_steps": 0, "final": 0.0, "shape": "linear"},
        grad_clip=1.0,
    )
    trained, frozen = (
        torch.nn.Parameter(torch.ones(1)),
        torch.nn.Parameter(torch.ones(1), requires_grad=False),
    )
    updater = ASRTask.make_updater(args, [trained, frozen], 4, suffix=suffix)
    assert isinstance(updater.optimizer, kind) and updater.lr == lr and updater.parameters == [trained]
    assert (updater.scheduler is None) == (suffix == "")
    if updater.scheduler:
        for _ in range(4):
            updater.optimizer.step()
            updater.scheduler.step()
        assert updater.lr == 0
