"""What has to be the same for a resumed training to equal one that was left alone."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World

#: One more with each change after which a step rounds or draws otherwise than before.
COMPUTATION = 3


def circumstances(seed: int, precision: str, world: World, streams: Mapping[str, Stream]) -> dict:
    """Plain values; a checkpoint holds them."""
    return {
        "seed": seed,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": world.device.type,
        "precision": precision,
        "torch": str(torch.__version__),
        "computation": COMPUTATION,
        "frames": {
            name: [each.frames_per_step, each.frames_per_micro_batch] for name, each in streams.items()
        },
    }


def check(
    folder: Path, state: dict, now: dict, parts: Mapping[str, Iterable[str]], say: Callable[[str], None]
) -> None:
    """Refuse what cannot go on, and say what will not be the same to the bit.

    Args:
        folder: the experiment.
        state: its checkpoint.
        now: `circumstances` of the training that goes on.
        parts: names of its `modules`, `updaters` and `streams`.
        say: prints a line.

    Raises:
        UserError: another seed, or other modules, optimisers or streams.
    """
    was = state["run"]
    advice = "use another experiment (--tag) or remove the folder"
    if was["seed"] != now["seed"]:
        raise UserError(f"{folder}: was trained with seed {was['seed']}, not {now['seed']}; {advice}")
    for what, names in parts.items():
        if set(state[what]) != set(names):
            raise UserError(
                f"{folder}: its checkpoint has the {what} {', '.join(sorted(state[what]))}, this "
                f"training {', '.join(sorted(names))}; {advice}"
            )
    different = [
        f"{name} {was.get(name, 'of an earlier version')} → {now[name]}"
        for name in now
        if was.get(name) != now[name]
    ]
    if different:
        say(
            f"warning: not as before the interruption: {'; '.join(different)}. The training goes on, but "
            "not as if it had never been interrupted"
        )
