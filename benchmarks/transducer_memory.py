"""Peak memory and time of the transducer's joint lattice: group by group beside the padded full lattice.

Run from the repository: ``python benchmarks/transducer_memory.py`` (``--device cuda`` on a GPU). Both systems
compute joint network, torchaudio's loss and all gradients of the same utterances, all at full length. The
peak is what the computation adds to what its process held before it, each system in a process of its own.
The time is the median of runs of both in turn; on a CPU that of the processor, which a busy machine
changes less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import record

SYSTEMS = ("full lattice", "group by group")


def _status(name: str) -> int:
    """Bytes of an entry of this process's status: VmRSS (in memory now), VmHWM (at most)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Peak:
    """Largest memory since it was made, above what was held then."""

    def __init__(self, device: str):
        import torch

        self.cuda = torch.cuda if device == "cuda" else None
        if self.cuda:
            self.cuda.synchronize()
            self.cuda.reset_peak_memory_stats()
            self.before = self.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the largest so far
            self.before = _status("VmRSS")

    def stop(self) -> int:
        """Bytes."""
        return (self.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")) - self.before


def seconds(device: str) -> float:
    """A clock: of the wall where a GPU works, of this process's processor time on a CPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def in_a_process(*options: str, exact_memory: bool = False) -> dict:
    """Run this script again with further options, for one measurement; what it prints last is the result.

    Args:
        options: of its command line, behind those of this process.
        exact_memory: freed tensors leave the process at once, so that what is resident is what is held.
    """
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if exact_memory else {})
    command = [sys.executable, *sys.argv, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


class _Case:
    """The same utterances for both systems."""

    def __init__(self, a: argparse.Namespace):
        import torch
        from espnet2.asr_transducer.joint_network import JointNetwork

        torch.manual_seed(0)
        device = {"device": a.device}
        self.joint = JointNetwork(a.vocabulary, a.size, a.size, joint_space_size=a.joint).to(a.device)
        self.encoder = torch.randn(a.batch, a.frames, a.size, requires_grad=True, **device)
        self.predictor = torch.randn(a.batch, a.labels + 1, a.size, requires_grad=True, **device)
        self.targets = torch.randint(1, a.vocabulary, (a.batch, a.labels), dtype=torch.int32, **device)
        self.frames = torch.full((a.batch,), a.frames, dtype=torch.int32, **device)
        self.labels = torch.full((a.batch,), a.labels, dtype=torch.int32, **device)

    def loss(self, system: str, frames, labels):
        """Mean loss of the utterances, cut to these lengths."""
        import torchaudio

        from espnet_ext.asr.transducer_loss import joint_loss

        encoder, predictor = self.encoder[:, : int(frames.max())], self.predictor[:, : int(labels.max()) + 1]
        targets = self.targets[:, : int(labels.max())]
        if system == SYSTEMS[0]:
            scores = self.joint(encoder[:, :, None], predictor[:, None])
            return torchaudio.functional.rnnt_loss(
                scores, targets.contiguous(), frames, labels, blank=0, reduction="mean"
            )
        count = len(frames)
        return joint_loss(
            lambda nodes: nodes.losses().sum() / count,
            self.joint,
            encoder,
            frames,
            predictor,
            targets,
            labels,
        )

    def run(self, system: str, small: bool = False) -> tuple[float, float]:
        """Loss and backward pass; returns the loss and the gradient's norm."""
        for tensor in (self.encoder, self.predictor, *self.joint.parameters()):
            tensor.grad = None
        size = (self.frames * 0 + 4, self.labels * 0 + 2) if small else (self.frames, self.labels)
        loss = self.loss(system, *size)
        loss.backward()
        return float(loss.detach()), float(self.encoder.grad.norm())


def _peak(system: str, a: argparse.Namespace) -> dict:
    case = _Case(a)
    case.run(system, small=True)  # what the first call allocates for good
    peak = Peak(a.device)
    loss, gradient = case.run(system)
    return {"peak_bytes": peak.stop(), "loss": loss, "gradient": gradient}


def _time(a: argparse.Namespace) -> dict:
    case = _Case(a)
    found: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for number in range(a.repeats + 1):
        for system in SYSTEMS:
            start = seconds(a.device)
            case.run(system)
            if number:  # the first warms up
                found[system].append(seconds(a.device) - start)
    return {system: statistics.median(times) for system, times in found.items()}


def main() -> None:
    """Measure both systems and record them, with the ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--batch", type=int, default=8)
    add("--frames", type=int, default=500)
    add("--labels", type=int, default=100)
    add("--vocabulary", type=int, default=500)
    add("--size", type=int, default=256, help="of the outputs of encoder and predictor")
    add("--joint", type=int, default=256, help="joint space")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--threads", type=int, default=0, help="of torch (0: its own choice)")
    add("--repeats", type=int, default=3, help="runs of which the median time counts")
    add("--part", help=argparse.SUPPRESS)  # what a process of this script measures
    a = parser.parse_args()
    if a.part:
        import torch

        torch.set_num_threads(a.threads or torch.get_num_threads())
        print(json.dumps(_time(a) if a.part == "time" else _peak(a.part, a)))
        return
    peaks = [in_a_process("--part", system, exact_memory=True) for system in SYSTEMS]
    for key, tolerance in (("loss", 1e-5), ("gradient", 1e-4)):
        if abs(peaks[1][key] / peaks[0][key] - 1) > tolerance:
            sys.exit(f"{key}: {peaks[1][key]} group by group, {peaks[0][key]} over the full lattice")
    times = in_a_process("--part", "time")
    for system, peak in zip(SYSTEMS, peaks, strict=True):
        record(
            "transducer_memory",
            system,
            device=a.device,
            peak_mb=round(peak["peak_bytes"] / 2**20, 1),
            seconds=round(times[system], 3),
            part_of_full_peak=round(peak["peak_bytes"] / peaks[0]["peak_bytes"], 3),
            part_of_full_time=round(times[system] / times[SYSTEMS[0]], 3),
        )


if __name__ == "__main__":
    main()
