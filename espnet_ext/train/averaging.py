"""Average of the parameters of several models."""

from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.init_param import load_state


def average(paths: Sequence[str | Path], option: str = "--nbest") -> dict[str, torch.Tensor]:
    """Mean of floating-point tensors over several state dicts; counters are those of the first.

    The sum runs in float64 and no input is changed (ESPnet's averaging overwrites its first one).

    Args:
        paths: models of one training, the best first.
        option: of the command, which says how many there are.

    Raises:
        UserError: no files, one that is missing or damaged, or files with different names or shapes.
    """
    if not paths:
        raise UserError("there is no model to average")
    first = _load(paths, 0, option)
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for rank, path in enumerate(paths[1:], 1):
        state = _load(paths, rank, option)
        different = set(state) ^ set(first) or {n for n in first if state[n].shape != first[n].shape}
        if different:
            raise UserError(f"{path}: differs from {paths[0]} in {', '.join(sorted(different)[:5])}")
        for name in sums:
            sums[name] += state[name].double()
    return {
        n: (sums[n] / len(paths)).to(value.dtype) if n in sums else value.clone()
        for n, value in first.items()
    }


def _load(paths: Sequence[str | Path], rank: int, option: str) -> dict[str, torch.Tensor]:
    """Read one of them, or say how to do without it."""
    try:
        return load_state(paths[rank])
    except UserError as error:
        # Fewer in silence would be another model than the one that its control is compared with.
        better = f"average the better ones alone ({option} {rank})"
        ways = ["put back a copy of it", *[better] * (rank > 0)]
        raise UserError(
            f"{error}; {', '.join(ways)}, or run the stage of its training again, with --force"
        ) from None
