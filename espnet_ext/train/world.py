"""The processes that train together: who they are, and the few things they say to each other.

Gradients are summed once an optimiser step, here, and not by torch's DistributedDataParallel: that one
reduces in each backward pass, while a step here has several turns with other parameters each, and a process
that retries a micro-batch for want of memory must not make the others wait in the middle of theirs.
"""

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from espnet_ext.errors import UserError

#: Bytes of gradient that are sent at once.
BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True)
class World:
    """The processes of a training; one alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Whether a flag is set in at least one process, for each flag."""
        if self.size == 1:
            return list(flags)
        tensor = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [value > 0 for value in tensor.tolist()]

    def minimum(self, value: float) -> float:
        """Least of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return float(tensor)

    def sum_by_name(self, values: dict[str, list[float]]) -> dict[str, list[float]]:
        """Sum lists of floats under the same names; a process may lack names that another has."""
        if self.size == 1:
            return values
        everybody: list[dict | None] = [None] * self.size
        dist.all_gather_object(everybody, values)
        total: dict[str, list[float]] = {}
        for each in everybody:
            for name, numbers in each.items():
                had = total.get(name, [0.0] * len(numbers))
                total[name] = [a + b for a, b in zip(had, numbers, strict=True)]
        return total

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients over the processes. Who has none of a parameter adds zero.

        A parameter without a gradient in every process keeps none: its optimiser leaves it alone, as in
        training with one process.
        """
        if self.size == 1:
            return
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        dist.all_reduce(there, op=dist.ReduceOp.MAX)
        used = [p for p, flag in zip(parameters, there.tolist(), strict=True) if flag]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in used]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """Runs of gradients of one type, about `BUCKET_BYTES` each."""
    bucket: list[torch.Tensor] = []
    filled = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if bucket and (filled + size > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(gradient)
        filled += size
    if bucket:
        yield bucket


def launched() -> bool:
    """Whether a launcher (torchrun, srun, ours) has started several processes and this is one of them."""
    return _from_environment() is not None


def join(ngpu: int, timeout_minutes: float = 30.0) -> World:
    """Join the processes that torchrun, srun or our own launcher started; alone if none did.

    Args:
        ngpu: 0 computes on the CPU (gloo), more on one GPU a process (nccl).
        timeout_minutes: a process that waits longer for another one ends the training.

    Raises:
        UserError: no GPU where one was asked for, or fewer than processes on this machine.
    """
    if ngpu and not torch.cuda.is_available():
        raise UserError(f"--ngpu {ngpu}: no GPU is visible here; use --ngpu 0 or check `nvidia-smi`")
    found = _from_environment()
    if found is None:
        return World(device=torch.device("cuda", 0) if ngpu else torch.device("cpu"))
    rank, size, local = found
    if ngpu:
        # A launcher that shows each process its own GPU alone leaves it number 0.
        local = 0 if torch.cuda.device_count() == 1 and os.environ.get("SLURM_GPUS_PER_TASK") else local
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} "
                "visible); start one process a GPU"
            )
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if ngpu else "gloo",
            init_method=_rendezvous(),
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=timeout_minutes),
        )
    return World(rank, size, torch.device("cuda", local) if ngpu else torch.device("cpu"))


def leave() -> None:
    """Part from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _from_environment() -> tuple[int, int, int] | None:
    """(rank, size, rank on this machine) as the launcher says, None if there is one process."""
    env = os.environ
    # In a batch script outside srun SLURM_NTASKS may be 2 and yet there is one process: ask for the step's.
    for rank, size, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if rank in env and int(env.get(size, 1)) > 1:
            return int(env[rank]), int(env[size]), int(env.get(local, 0))
    return None


def _rendezvous() -> str:
    """Where the processes meet: what torchrun says, else the first node of the Slurm step."""
    env = os.environ
    if "MASTER_ADDR" in env:
        return "env://"
    host = first_host(env.get("SLURM_STEP_NODELIST", "localhost"))
    try:
        socket.getaddrinfo(host, None)
    except OSError:  # names that Slurm alone knows: srun was started on the first node
        host = env.get("SLURM_LAUNCH_NODE_IPADDR", host)
    # Jobs that share a node must not share a port.
    port = 20000 + (int(env.get("SLURM_JOB_ID", 0)) * 16 + int(env.get("SLURM_STEP_ID", 0)) % 16) % 40000
    return f"tcp://{host}:{port}"


def first_host(nodes: str) -> str:
    """First host of Slurm's compressed list.

    >>> first_host("gpu[07-09,12],login1")
    'gpu07'
    >>> first_host("n1,n2")
    'n1'
    """
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    inside, _, tail = rest.partition("]")
    first = inside.split(",")[0].split("-")[0]
    return head + first + tail.split(",")[0]
