"""Cost of LM transfer with stored targets: time of a training step, and peak memory of a transducer's
lattice.

Run from the repository: ``python benchmarks/lm_transfer_cost.py``. Steps are those of the synth recipe's
models (`egs2/synth/asr1/conf`) on random speech, through the training loop's own code, method and control
in turn, so that a busy machine slows both; the ratio is that of the medians. The method fine-tunes: a
transducer first learns its batch for some steps (``--learned``), because the posteriors of an untrained one
leave no node out. Memory is that of the joint
lattice and what is computed on it, at B = 8, T = 400, U = 60, V = 500, a joint space of 256 and embeddings
of 384 dimensions, all utterances at full length.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import yaml
from record import ROOT, record
from transducer_memory import Peak, in_a_process, seconds

CONF = ROOT / "egs2" / "synth" / "asr1" / "conf"
TOKENS = ["<blank>", "<unk>", *(f"t{number}" for number in range(197)), "<sos/eos>"]
#: The lattice's size of the memory's measurement, and of the embeddings.
MEMORY = {"batch": 8, "frames": 400, "labels": 60, "vocabulary": 500, "joint": 256, "embedding": 384}


class RandomTargets:
    """Embeddings that are read from a file as those of a store are, and mean nothing."""

    def __init__(self, size: int, folder: Path, labels: int):
        import numpy as np

        self.size, self.path = size, folder / "rows.f16"
        np.random.default_rng(0).standard_normal((labels, size)).astype(np.float16).tofile(self.path)
        self.handle = open(self.path, "rb")

    def batch(self, batch):
        import os

        import numpy as np
        import torch

        from espnet_ext.lm_transfer.targets import TargetBatch

        lengths = batch.tensors["text_lengths"].tolist()
        values = torch.zeros(len(lengths), max(lengths) + 1, self.size)
        for row, length in enumerate(lengths):
            data = os.pread(self.handle.fileno(), (length + 1) * self.size * 2, row * self.size * 2)
            stored = np.frombuffer(data, dtype=np.float16).astype(np.float32).reshape(length + 1, self.size)
            values[row, : length + 1] = torch.from_numpy((stored - 0.1) * 1.1)
        there = torch.arange(max(lengths) + 1) <= batch.tensors["text_lengths"].cpu()[:, None]
        device = batch.tensors["text"].device
        return TargetBatch(values.to(device), there.to(device))


def _build(kind: str, device: str):
    """The recipe's model, and the class of its control and of its method."""
    import torch

    from espnet_ext.asr.method import JointMethod
    from espnet_ext.asr.task import ASRTask
    from espnet_ext.asr.transducer_method import TransducerMethod
    from espnet_ext.asr.transducer_task import TransducerTask
    from espnet_ext.lm_transfer.attention import AttentionTransfer
    from espnet_ext.lm_transfer.transducer import TransducerTransfer

    torch.manual_seed(0)
    task, name = (ASRTask, "pretrain") if kind == "attention" else (TransducerTask, "pretrain_transducer")
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | {"normalize": "utterance_mvn"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as handle:
        yaml.safe_dump(options, handle)
        handle.flush()
        command = ["--config", handle.name, "--output_dir", "-", "--token_list", "-", "--token_type", "char"]
        args = task.get_parser().parse_args(command)
    args.token_list = TOKENS
    model = task.build_model(args).to(device)
    return model, *(
        (JointMethod, AttentionTransfer) if kind == "attention" else (TransducerMethod, TransducerTransfer)
    )


def _learn(model, tensors: dict, steps: int) -> None:
    """Train a transducer on one batch, so that it has an opinion about where labels are."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        loss = model.lattice_loss(model.outputs(**tensors), lambda nodes: nodes.losses().mean())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()


def _steps(kind: str, a: argparse.Namespace) -> dict:
    """Median seconds of a step, of control and method."""
    import torch

    from espnet_ext.lm_transfer.heads import EmbeddingHead
    from espnet_ext.lm_transfer.options import TransferOptions
    from espnet_ext.train.data import Batch
    from espnet_ext.train.method import Position, Totals, Updater
    from espnet_ext.train.runner import StepRunner
    from espnet_ext.train.streams import StreamStep
    from espnet_ext.train.world import World

    count, samples, labels = a.utterances, int(a.seconds * 16000), int(a.seconds * 5)
    tensors = {
        "speech": torch.randn(count, samples),
        "speech_lengths": torch.full((count,), samples),
        "text": torch.randint(2, len(TOKENS) - 1, (count, labels)),
        "text_lengths": torch.full((count,), labels),
    }
    batch = Batch([str(row) for row in range(count)], {n: t.to(a.device) for n, t in tensors.items()})
    step = StreamStep(Totals(count, count * (labels + 1), 0), [(0, batch)], batch.utterances, 1, 0)

    class Stream:
        seed = 0

        def augment_keys(self, batch, passes):
            return list(range(len(batch.utterances)))

    def updater(module):
        return Updater(torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True))

    start = _build(kind, a.device)[0]
    if kind == "transducer":
        _learn(start, {n: t.to(a.device) for n, t in tensors.items()}, a.learned)
    with tempfile.TemporaryDirectory() as folder:
        targets = RandomTargets(a.embedding, Path(folder), count * (labels + 1))
        runners = []
        for transfer in (False, True):
            model, control, method = _build(kind, a.device)
            model.load_state_dict(start.state_dict())
            if transfer:
                size = 128 if kind == "attention" else 256
                head = EmbeddingHead(size, a.embedding).to(a.device)
                trained = method(
                    model, updater(model), head, updater(head), targets, TransferOptions(), 10**6
                )
            else:
                trained = control(model, updater(model))
            trained.train()
            runners.append(
                StepRunner(trained, {"labelled": Stream()}, World(device=torch.device(a.device)), 0)
            )
        times: list[list[float]] = [[], []]
        for number in range(a.repeats + 1):
            for runner, found in zip(runners, times, strict=True):
                position = Position(1, number, number)
                start = seconds(a.device)
                for turn in runner.method.turns(position):
                    runner.run(turn, {"labelled": step}, {}, position)
                if number:  # the first warms up
                    found.append(seconds(a.device) - start)
    return {"control": statistics.median(times[0]), "method": statistics.median(times[1])}


def _lattice_peak(form: str, a: argparse.Namespace) -> dict:
    """Peak bytes of the lattice's loss and its backward pass: of the control, or with the embeddings."""
    from types import SimpleNamespace

    import torch
    from espnet2.asr_transducer.joint_network import JointNetwork

    from espnet_ext.asr.transducer_loss import joint_loss
    from espnet_ext.asr.transducer_method import Tally, TransducerMethod
    from espnet_ext.lm_transfer.heads import EmbeddingHead
    from espnet_ext.lm_transfer.options import TransferOptions
    from espnet_ext.lm_transfer.targets import TargetBatch
    from espnet_ext.lm_transfer.transducer import TransducerTransfer

    m = SimpleNamespace(**MEMORY)
    torch.manual_seed(0)
    joint = JointNetwork(m.vocabulary, 256, 256, joint_space_size=m.joint).to(a.device)
    encoder = torch.randn(m.batch, m.frames, 256, device=a.device, requires_grad=True)
    predictor = torch.randn(m.batch, m.labels + 1, 256, device=a.device, requires_grad=True)
    targets = torch.randint(1, m.vocabulary, (m.batch, m.labels), device=a.device)
    frames, labels = (torch.full((m.batch,), value, device=a.device) for value in (m.frames, m.labels))
    values = torch.randn(m.batch, m.labels + 1, m.embedding, device=a.device)
    embeddings = TargetBatch(values, torch.ones(m.batch, m.labels + 1, dtype=torch.bool, device=a.device))
    head = EmbeddingHead(m.joint, m.embedding).to(a.device)
    model, tally = SimpleNamespace(transducer_weight=1.0), Tally()
    if form == "control":
        control = TransducerMethod(model, None)
        parameters = ()

        def objective(nodes):
            return control.plain(nodes, m.batch, tally)
    else:
        method = TransducerTransfer(model, None, head, None, None, TransferOptions(form=form), 1)
        parameters = tuple(head.parameters())

        def objective(nodes):
            return method.objective(nodes, embeddings, 0.1, m.batch, tally)

    few = frames * 0 + 2
    for size in (few, frames):  # the first call allocates for good what every call needs
        peak = Peak(a.device)
        joint_loss(objective, joint, encoder, size, predictor, targets, labels, parameters).backward()
    return {"peak_bytes": peak.stop()}


def main() -> None:
    """Measure steps of both kinds of recognisers, and the lattice's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--only", choices=["steps", "memory"], help="one of the two measurements")
    add("--utterances", type=int, default=16, help="of a step")
    add("--seconds", type=float, default=3.0, help="of speech each, five labels a second")
    add("--embedding", type=int, default=384, help="dimensions of the LM's embeddings")
    add("--learned", type=int, default=60, help="steps that a transducer has trained on its batch before")
    add("--repeats", type=int, default=20, help="steps that are timed")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--threads", type=int, default=0, help="of torch (0: its own choice)")
    add("--part", help=argparse.SUPPRESS)  # what a process of this script measures
    a = parser.parse_args()
    if a.part:
        import torch

        if a.threads:
            torch.set_num_threads(a.threads)
        what, which = a.part.split(":")
        print(json.dumps(_steps(which, a) if what == "steps" else _lattice_peak(which, a)))
        return

    for kind in ("attention", "transducer") if a.only != "memory" else ():
        found = in_a_process("--part", f"steps:{kind}")
        record(
            "lm_transfer_cost",
            f"{kind}, step",
            device=a.device,
            control_seconds=round(found["control"], 4),
            method_seconds=round(found["method"], 4),
            times_control=round(found["method"] / found["control"], 3),
        )
    if a.only == "steps":
        return
    control = in_a_process("--part", "peak:control", exact_memory=True)["peak_bytes"]
    for form in ("surrogate", "best_path", "exact"):
        peak = in_a_process("--part", f"peak:{form}", exact_memory=True)["peak_bytes"]
        record(
            "lm_transfer_cost",
            f"transducer, lattice memory, {form}",
            device=a.device,
            control_mb=round(control / 2**20, 1),
            method_mb=round(peak / 2**20, 1),
            times_control=round(peak / control, 3),
        )


if __name__ == "__main__":
    main()
