"""What has to be the same for a resumed training to equal one that was left alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.method import Updater
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World

#: One more with each change after which a step rounds or draws otherwise than before.
COMPUTATION = 5
#: What to do with an experiment that this training cannot go on with.
ADVICE = "use another experiment (--tag) or remove the folder"


def circumstances(
    seed: int,
    precision: str,
    world: World,
    streams: Mapping[str, Stream],
    modules: Mapping[str, torch.nn.Module],
) -> dict:
    """Plain values; a checkpoint holds them."""
    modes = {
        name: module.padding_option for name, module in modules.items() if hasattr(module, "padding_option")
    }
    return {
        "padding": modes,
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
        "data": {
            name: f"{len(each.lengths)} utterances of {sum(each.lengths.values())} frames"
            for name, each in streams.items()
        },
    }


def take(
    folder: Path,
    state: dict,
    now: dict,
    modules: Mapping[str, torch.nn.Module],
    updaters: Mapping[str, Updater],
    streams: Mapping[str, Stream],
) -> list[str]:
    """Put parameters, optimisers and positions in the data back to a checkpoint.

    Args:
        folder: the experiment.
        state: its checkpoint.
        now: `circumstances` of the training that goes on.
        modules, updaters, streams: of the training that goes on, by name.

    Returns:
        Lines that tell what will not be as if the training had never been interrupted.

    Raises:
        UserError: what cannot go on.
    """
    told = check(folder, state, now, {"modules": modules, "updaters": updaters, "streams": streams})
    check_tensors(folder, state["modules"], modules)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    for name, updater in updaters.items():
        try:
            told += [
                f"note: optimiser of {name}: {what}" for what in updater.load_state(state["updaters"][name])
            ]
        except ValueError as error:
            raise UserError(
                f"{folder}: optimiser of {name}: {error}; put back the options it was trained with, or "
                f"{ADVICE}"
            ) from None
    for name, stream in streams.items():
        stream.position = dict(state["streams"][name])
        step, steps = stream.position["step"], stream.steps(stream.position["pass"])
        if step >= steps:
            raise UserError(
                f"{folder}: its checkpoint is behind step {step} of the {name} data, which has {steps}: the "
                f"data or frames_per_step is not what it was; put it back, or {ADVICE}"
            )
    return told


def check(folder: Path, state: dict, now: dict, parts: Mapping[str, Iterable[str]]) -> list[str]:
    """Refuse what cannot go on, and tell what will not be the same to the bit.

    Args:
        folder: the experiment.
        state: its checkpoint.
        now: `circumstances` of the training that goes on.
        parts: names of its `modules`, `updaters` and `streams`.

    Returns:
        A line about what is not as before, or none.

    Raises:
        UserError: another seed, other modules, optimisers or streams, or no checkpoint of a training at all.
    """
    if lacking := [part for part in (*parts, "run") if part not in state]:
        lacks = ", ".join(lacking)
        raise UserError(f"{folder}: no training wrote its checkpoint, it lacks {lacks}; {ADVICE}")
    was = state["run"]
    if was["seed"] != now["seed"]:
        raise UserError(f"{folder}: was trained with seed {was['seed']}, not {now['seed']}; {ADVICE}")
    for what, names in parts.items():
        if set(state[what]) != set(names):
            raise UserError(
                f"{folder}: its checkpoint has the {what} {', '.join(sorted(state[what]))}, this "
                f"training {', '.join(sorted(names))}; {ADVICE}"
            )
    different = [
        f"{name} {was.get(name, 'of an earlier version')} → {now[name]}"
        for name in now
        if was.get(name) != now[name]
    ]
    if not different:
        return []
    return [
        f"warning: not as before the interruption: {'; '.join(different)}. The training goes on, but not "
        "as if it had never been interrupted"
    ]


def check_tensors(folder: Path, saved: Mapping[str, dict], modules: Mapping[str, torch.nn.Module]) -> None:
    """Refuse parameters of other names or shapes, by name.

    Args:
        folder: the experiment.
        saved: its checkpoint's state dicts by module.
        modules: those of the training that goes on.

    Raises:
        UserError: listing what is missing, what the model does not have, and what has another shape.
    """
    for name, module in modules.items():
        wrong = _differences(saved[name], module.state_dict())
        if wrong:
            raise UserError(
                f"{folder}: {len(wrong)} tensors of the checkpoint's {name} do not fit the configuration: "
                f"{', '.join(wrong[:20])}{', ...' if len(wrong) > 20 else ''}; put back the options it was "
                f"trained with, or {ADVICE}"
            )


def _differences(saved: dict, own: dict) -> list[str]:
    """Names that only one of two state dicts has, or that have another shape, with what is wrong."""
    wrong = []
    for name in sorted({*saved, *own}):
        if name not in saved:
            wrong.append(f"{name} (missing)")
        elif name not in own:
            wrong.append(f"{name} (not in the model)")
        elif saved[name].shape != own[name].shape:
            wrong.append(f"{name} ({tuple(saved[name].shape)} against {tuple(own[name].shape)})")
    return wrong
