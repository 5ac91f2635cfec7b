"""Average of the parameters of several models."""

from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.train.init_param import load_state


def average(paths: Sequence[str | Path]) -> dict[str, torch.Tensor]:
    """Mean of floating-point tensors over several state dicts; counters are those of the first.

    The sum runs in float64 and no input is changed (ESPnet's averaging overwrites its first one).

    Raises:
        UserError: no files, or files with different names or shapes.
    """
    if not paths:
        raise UserError("there is no model to average")
    first = load_state(paths[0])
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for path in paths[1:]:
        state = load_state(path)
        different = set(state) ^ set(first) or {n for n in first if state[n].shape != first[n].shape}
        if different:
            raise UserError(f"{path}: differs from {paths[0]} in {', '.join(sorted(different)[:5])}")
        for name in sums:
            sums[name] += state[name].double()
    return {
        n: (sums[n] / len(paths)).to(value.dtype) if n in sums else value.clone()
        for n, value in first.items()
    }
