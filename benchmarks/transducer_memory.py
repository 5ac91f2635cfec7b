"""Peak memory and time of the transducer's joint lattice: group by group beside the padded full lattice.

Run from the repository: ``python benchmarks/transducer_memory.py`` (``--device cuda`` on a GPU). Both systems
compute joint network, torchaudio's loss and all gradients of the same utterances, all at full length; each in
a process of its own. The peak is what the computation adds to what the process held before it.
"""

import argparse
import json
import os
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


def in_a_process(*options: str) -> dict:
    """Run this script again with further options, for one measurement; what it prints last is the result."""
    # Freed tensors leave the process at once, so that what is resident is what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, *sys.argv, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(system: str, a: argparse.Namespace) -> dict:
    """Peak and time of one system, in this process."""
    import torch
    import torchaudio
    from espnet2.asr_transducer.joint_network import JointNetwork

    from espnet_ext.asr.transducer_loss import joint_loss

    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    device = torch.device(a.device)
    joint = JointNetwork(a.vocabulary, a.size, a.size, joint_space_size=a.joint).to(device)
    encoder = torch.randn(a.batch, a.frames, a.size, device=device, requires_grad=True)
    predictor = torch.randn(a.batch, a.labels + 1, a.size, device=device, requires_grad=True)
    targets = torch.randint(1, a.vocabulary, (a.batch, a.labels), device=device, dtype=torch.int32)
    frames = torch.full((a.batch,), a.frames, device=device, dtype=torch.int32)
    labels = torch.full((a.batch,), a.labels, device=device, dtype=torch.int32)

    def full() -> torch.Tensor:
        scores = joint(encoder[:, :, None], predictor[:, None])
        return torchaudio.functional.rnnt_loss(scores, targets, frames, labels, blank=0, reduction="mean")

    def grouped() -> torch.Tensor:
        count = a.batch
        return joint_loss(
            lambda nodes: nodes.losses().sum() / count, joint, encoder, frames, predictor, targets, labels
        )

    def run(loss) -> float:
        for tensor in (encoder, predictor, *joint.parameters()):
            tensor.grad = None
        value = loss()
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return float(value.detach())

    loss = full if system == SYSTEMS[0] else grouped
    small = slice(0, 1)
    torchaudio.functional.rnnt_loss(  # what the first call allocates for good
        joint(encoder[small, :2, None], predictor[small, None, :3]),
        targets[small, :2],
        frames[small] * 0 + 2,
        labels[small] * 0 + 2,
        blank=0,
    ).backward()
    peak = Peak(a.device)
    value = run(loss)
    largest = peak.stop()
    seconds = []
    for _ in range(a.repeats):
        start = time.perf_counter()
        run(loss)
        seconds.append(time.perf_counter() - start)
    gradient = float(encoder.grad.norm())
    return {"peak_bytes": largest, "seconds": min(seconds), "loss": value, "gradient_norm": gradient}


def main() -> None:
    """Measure both systems and record the second's ratios to the first."""
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
    add("--repeats", type=int, default=5, help="the best time of so many runs counts")
    add("--system", choices=SYSTEMS, help=argparse.SUPPRESS)  # what a process of this script measures
    arguments = parser.parse_args()
    if arguments.system:
        print(json.dumps(_measure(arguments.system, arguments)))
        return
    found = [in_a_process("--system", system) for system in SYSTEMS]
    for key, tolerance in (("loss", 1e-5), ("gradient_norm", 1e-4)):
        if abs(found[1][key] / found[0][key] - 1) > tolerance:
            sys.exit(f"{key}: {found[1][key]} group by group, {found[0][key]} over the full lattice")
    for system, figures in zip(SYSTEMS, found, strict=True):
        record(
            "transducer_memory",
            system,
            device=arguments.device,
            peak_mb=round(figures["peak_bytes"] / 2**20, 1),
            seconds=round(figures["seconds"], 3),
            part_of_full_peak=round(figures["peak_bytes"] / found[0]["peak_bytes"], 3),
            part_of_full_time=round(figures["seconds"] / found[0]["seconds"], 3),
        )


if __name__ == "__main__":
    main()
