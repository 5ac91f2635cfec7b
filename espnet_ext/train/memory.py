"""Finding the micro-batch that fits the memory, once, before training."""

import gc
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from espnet_ext.train.method import Method, Position
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.streams import Stream, StreamStep
from espnet_ext.train.world import World

#: Where the result stands, in the experiment.
NAME = "micro_batch.json"

#: Part of a GPU's memory that a training may use; fragmentation needs the rest.
USABLE = 0.9


def find_micro_batch(
    method: Method,
    streams: Mapping[str, Stream],
    runner: StepRunner,
    world: World,
    folder: Path,
    probe: bool | None = None,
) -> dict[str, int]:
    """Set `frames_per_micro_batch` of every stream to the largest 1/n of its step that fits, n = 1, 2, 4, ...

    The first training of an experiment tries it out with the longest utterances and with the most
    utterances, forward and backward; what it finds is frozen in `micro_batch.json`, since another cut
    draws another dropout. On a CPU the memory is not probed: a step is cut into one piece a process.

    Args:
        method, streams, runner, world: the training.
        folder: the experiment.
        probe: whether to try it out; None does so on a GPU.

    Returns:
        frames of a micro-batch by stream.

    Raises:
        UserError: not even one utterance fits.
    """
    path = folder / NAME
    probe = world.device.type == "cuda" if probe is None else probe
    if path.exists():
        found = _read(path)
    else:
        parts = world.size
        while probe and not _fits(method, streams, runner, world, parts):
            parts *= 2
            if all(stream.frames_per_step // parts == 0 for stream in streams.values()):
                raise UserError(
                    f"not even one utterance fits the memory of {world.device}; use a larger GPU, a "
                    "smaller model, or drop long utterances (--max_duration)"
                )
        found = {name: -(-stream.frames_per_step // parts) for name, stream in streams.items()}
        if world.first:
            name = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
            about = {"frames_per_micro_batch": found, "device": name, "processes": world.size}
            atomic_write_text(path, json.dumps(about, indent=1) + "\n")
            print(f"micro-batches of {found} frames fit ({name}); kept in {path}", flush=True)
        world.wait()
    missing = sorted(set(streams) - set(found))
    if missing:
        raise UserError(f"{path}: says nothing of the data {', '.join(missing)}; remove it to try again")
    for name, stream in streams.items():
        stream.frames_per_micro_batch = found[name]
    return found


def _read(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["frames_per_micro_batch"]
        if all(type(frames) is int and frames > 0 for frames in found.values()):
            return found
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(
        f"{path}: expected `frames_per_micro_batch` with a number of frames for each stream; remove it to "
        "try out again what fits"
    )


def _fits(method, streams, runner: StepRunner, world: World, parts: int) -> bool:
    """Whether 1/parts of a step goes through forward and backward, in all processes."""
    gpu = world.device.type == "cuda"
    fits = True
    try:
        for which in (0, 1):
            data = {}
            for name, stream in streams.items():
                candidates = stream.largest(max(1, stream.frames_per_step // parts))
                utterances = candidates[min(which, len(candidates) - 1)]
                batch = next(stream.data.batches([utterances], 0, world.device))
                data[name] = StreamStep(stream.totals(list(utterances)), [(0, batch)], list(utterances), 1, 0)
            for turns in method.kinds_of_steps():
                kept: dict[str, list] = {}
                for turn in turns:
                    runner.losses(turn, data, kept, Position(1, 0, 0))
        if gpu:
            total = torch.cuda.get_device_properties(world.device).total_memory
            # Two moments of each parameter, which the optimisers take at their first step.
            moments = sum(8 * p.numel() for updater in method.updaters.values() for p in updater.parameters)
            fits = torch.cuda.max_memory_reserved(world.device) + moments <= USABLE * total
    except torch.OutOfMemoryError:
        fits = False
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(world.device)
    return bool(world.minimum(float(fits)))
