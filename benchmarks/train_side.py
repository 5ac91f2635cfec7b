"""One side of benchmarks/train.py: a training that writes down what each update took and what its loss was.

``python benchmarks/train_side.py {espnet,ours,parts} PLAN.json``. Both sides get the same batches in the same
order; ESPnet's model, trainer, dataset and collate function are stock, only its batch list is ours.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import record  # noqa: F401  (its import makes the package of this clone importable)

#: Set by the parent: when it started this process.
STARTED = float(os.environ.get("BENCH_STARTED", time.time()))


class Enough(BaseException):
    """The wanted number of updates has been made."""


def watch(plan: dict) -> dict:
    """Let every optimiser step write down what the update took; ``plan["steps"]`` of them end the training.

    After each ``plan["turn"]`` of them the process and its loaders stop until they are told to continue.
    """
    import torch

    out = {"first": None, "seconds": [], "losses": []}
    real = torch.optim.AdamW.step
    since = time.perf_counter()

    def step(self, *args, **kwargs):
        nonlocal since
        result = real(self, *args, **kwargs)
        out["first"] = out["first"] or time.time() - STARTED
        out["seconds"].append(time.perf_counter() - since)
        if len(out["seconds"]) == plan["steps"]:
            raise Enough
        if len(out["seconds"]) % plan.get("turn", plan["steps"]) == 0:
            os.killpg(0, signal.SIGSTOP)
        since = time.perf_counter()
        return result

    torch.optim.AdamW.step = step
    return out


def espnet(plan: dict) -> dict:
    """ESPnet's own asr_train."""
    from espnet2.asr.espnet_model import ESPnetASRModel
    from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.dataset import ESPnetDataset

    class SameBatches(ASRTask):
        @classmethod
        def build_sequence_iter_factory(cls, args, iter_options, mode):
            dataset = ESPnetDataset(
                iter_options.data_path_and_name_and_type, preprocess=iter_options.preprocess_fn
            )
            return SequenceIterFactory(
                dataset,
                batches=plan["batches"] if mode == "train" else plan["batches"][:1],
                shuffle=False,
                num_workers=args.num_workers,
                collate_fn=iter_options.collate_fn,
            )

    out = watch(plan)
    real = ESPnetASRModel.forward

    def forward(self, *args, **kwargs):
        loss, stats, weight = real(self, *args, **kwargs)
        out["losses"].append(loss.detach())
        return loss, stats, weight

    ESPnetASRModel.forward = forward
    sys.argv = ["asr_train", *plan["espnet"]]
    return finish(lambda: SameBatches.main(cmd=plan["espnet"]), out)


def ours(plan: dict) -> dict:
    """This project's training."""
    from espnet_ext.asr.model import ASRModel
    from espnet_ext.asr.task import ASRTask
    from espnet_ext.train import streams
    from espnet_ext.train.batches import Step

    streams.plan_epoch = lambda *_, **__: [Step((tuple(batch),)) for batch in plan["batches"]]
    out = watch(plan)
    real = ASRModel.joint_loss

    def joint_loss(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        out["losses"].append(loss.detach())
        return loss

    ASRModel.joint_loss = joint_loss
    return finish(lambda: ASRTask.main(cmd=plan["ours"]), out)


def parts(plan: dict) -> dict:
    """This project's training, its step taken apart: computing against everything else; and a checkpoint."""
    import torch

    from espnet_ext.asr.method import JointMethod
    from espnet_ext.train import checkpoint, runner

    spent = {"compute": 0.0, "save": 0.0, "saves": 0}

    def timed(function, name):
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    JointMethod.joint_part = timed(JointMethod.joint_part, "compute")
    torch.Tensor.backward = timed(torch.Tensor.backward, "compute")
    torch.optim.AdamW.step = timed(torch.optim.AdamW.step, "compute")
    save = checkpoint.save

    def counted(*args):
        spent["saves"] += 1
        return timed(save, "save")(*args)

    checkpoint.save = counted
    begun = []
    real = runner.StepRunner.run

    def run(self, *args):
        # The first steps warm up: they are left out on both sides of the ratio.
        if len(begun) == 5:
            spent.update(compute=0.0, save=0.0, saves=0)
        begun.append(time.perf_counter())
        return real(self, *args)

    runner.StepRunner.run = run
    out = ours(plan)
    wall = time.perf_counter() - begun[5]
    return out | {"wall": wall, **spent, "steps": len(begun) - 5}


def finish(train, out: dict) -> dict:
    """Run the training to the wanted step."""
    try:
        train()
    except Enough:
        pass
    return out | {"losses": [float(loss) for loss in out["losses"]]}


def main() -> None:
    """Run one side; its figures go to the plan's ``out`` file."""
    side, path = sys.argv[1:]
    if side != "espnet":  # nothing of this project's, its start-up hooks least of all, may help ESPnet
        from espnet_ext.train.allocator import keep_freed_memory

        keep_freed_memory()  # as espnet_ext.bin.asr_train does
    plan = json.loads(Path(path).read_text())
    out = {"espnet": espnet, "ours": ours, "parts": parts}[side](plan)
    Path(plan["out"]).write_text(json.dumps(out))
    os._exit(0)  # loader processes need no farewell


if __name__ == "__main__":
    main()
