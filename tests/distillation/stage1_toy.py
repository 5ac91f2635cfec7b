"""What tests of stage 1 share: a method with its streams as the task builds them, gradients, trainings."""

import csv
import json

import numpy as np
import torch

from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.distillation.targets import sample_summary
from espnet_ext.train.method import MicroBatch
from espnet_ext.train.world import World
from tests.distillation.conftest import NoiseTeacher

BOTH = {"teachers": {"one": 1.0, "two": 3.0}}


def build(toy, targets, conf, *options, **changes):
    """Method and streams as the task builds them."""
    world = World()
    words = [f"--targets_dir={targets}", *options]
    args = toy.args(EncoderTask, *words, distillation_conf=conf, **changes)
    torch.manual_seed(5)
    model = EncoderTask.build_model(args)
    streams = EncoderTask.build_streams(args, world)
    return EncoderTask.build_method(args, model, streams), streams, args


def micro_of(method, streams, name="labelled"):
    """The first micro-batch of a stream."""
    step = streams[name].next()
    number, batch = step.batches[0]
    return MicroBatch(batch, step.totals, streams[name].augment_keys(batch, 1), (0, number), (1,))


def gradients(method, micro):
    """Gradients by module and name of the loss of a micro-batch."""
    for module in method.modules.values():
        module.zero_grad()
    micro.seed("model")
    loss = method.part(micro).loss
    loss.backward()
    return loss.detach(), {
        f"{m}.{n}": p.grad
        for m, module in method.modules.items()
        for n, p in module.named_parameters()
        if p.grad is not None
    }


def train(toy, experiment, *options, **changes):
    """Run a training; returns its history and summary."""

    assert EncoderTask.main(cmd=toy.command(experiment, *options, **changes)) == 0
    folder = toy.folder / experiment
    with open(folder / "history.csv") as handle:
        rows = list(csv.DictReader(handle))
    return rows, json.loads((folder / "train_summary.json").read_text())


def summaries(sizes, seed=0):
    draw = np.random.default_rng(seed)
    return {
        name: sample_summary([draw.normal(3, 5, (50, n)) @ draw.normal(0, 1, (n, n)) for _ in range(9)])
        for name, n in sizes.items()
    }


class Uneven(NoiseTeacher):
    """A teacher of some frames more or fewer than others."""

    extra = 0

    def frames(self, samples):
        return super().frames(samples) + 2 * self.extra
