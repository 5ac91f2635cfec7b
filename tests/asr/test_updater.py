"""Optimisers from ESPnet's options, the second one's as well."""

from types import SimpleNamespace

import pytest
import torch
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.train.construct import construct


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


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("adamm", {}, "--optim: adamm: expected one of adam, adamw, "),
        ("adamw", {"lrr": 0.1}, "has no option lrr, did you mean lr\\? adamw takes lr, betas, eps, "),
        ("sgd", {"betas": [0, 1]}, "has no option betas; sgd takes lr, momentum, "),
        ("adamw", {"lr": "abc"}, "lr 'abc': expected a number$"),
        (
            "adamw",
            {"lr": "1e-4"},
            "lr '1e-4': expected a number; YAML takes lr '1e-4' for a text: write 1.0e-4",
        ),
        ("adamw", {"lr": None}, "lr None: expected a number$"),
        ("adamw", {"weight_decay": True}, "weight_decay True: expected a number$"),
        ("adamw", {"amsgrad": "no way"}, "amsgrad 'no way': expected true or false$"),
        ("adamw", {"betas": 0.9}, "betas 0.9: expected a list of 2 numbers, as \\[0.9, 0.999\\]$"),
        ("adamw", {"betas": [0.9]}, "betas \\[0.9\\]: expected a list of 2 numbers"),
        (
            "adamw",
            {"betas": [0.9, "1e-1"]},
            "betas .* 2 numbers, .*; YAML takes betas '1e-1' for a text",
        ),
        ("adamw", {"lr": -1}, "Invalid learning rate: -1; adamw takes lr, "),
        ("adamw", {"lr": float("nan")}, "lr nan: expected a finite number"),
    ],
)
def test_what_an_optimiser_does_not_take(name, conf, message):
    where = "" if name == "adamm" else f"^--optim_conf: {name}: "
    with pytest.raises(UserError, match=where + message):
        construct(optim_classes, "optim", name, conf, [torch.nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(
    "name, conf, message",
    [
        (
            "warmuplr",
            {"warmup": 3},
            "has no option warmup, did you mean warmup_steps\\? warmuplr takes warmup_steps, ",
        ),
        ("warmuplr", {"warmup_steps": "3e3"}, "warmup_steps '3e3': expected a number"),
        ("steplr", {}, "missing 1 required positional argument: 'step_size'; steplr takes step_size, gamma"),
    ],
)
def test_what_a_schedule_does_not_take(name, conf, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    with pytest.raises(UserError, match=f"^--scheduler2_conf: {name}: .*{message}"):
        construct(scheduler_classes, "scheduler2", name, conf, optimizer)


@pytest.mark.parametrize(
    "name, what",
    [("reducelronplateau", "metrics"), ("warmupreducelronplateau", "metrics"), ("lbfgs", "closure")],
)
def test_what_the_loop_cannot_use_is_refused(name, what):
    """Before the first step, not at it."""
    parameters = [torch.nn.Parameter(torch.ones(1))]
    classes, first = (optim_classes, parameters)
    if name in scheduler_classes:
        classes, first = scheduler_classes, torch.optim.SGD(parameters, 0.1)
    with pytest.raises(UserError, match=f"^--x: {name}: needs `{what}` at every step"):
        construct(classes, "x", name, {}, first)


def test_a_plug_in_may_take_any_option():
    def adamw(parameters, **conf):
        return torch.optim.AdamW(parameters, **conf)

    made = construct({"own": adamw}, "optim", "own", {"lr": 0.5}, [torch.nn.Parameter(torch.ones(1))])
    assert made.defaults["lr"] == 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adadelta", "adamax", "rprop", "radam"])
def test_every_optimiser_takes_its_own_defaults(name):
    import inspect

    known = list(inspect.signature(optim_classes[name]).parameters.values())[1:]
    defaults = {each.name: each.default for each in known}
    construct(optim_classes, "optim", name, defaults, [torch.nn.Parameter(torch.ones(1))])
