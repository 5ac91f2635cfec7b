"""Starting from another model's parameters: what was loaded, what is fresh, and nothing in silence."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from espnet_ext.errors import UserError

#: What ESPnet's `checkpoint.pth` holds beside tensors and Python's own values: its reporter's figures.
_PLAIN = [
    timedelta,
    np.dtype,
    type(np.dtype(np.float64)),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass
class Initialised:
    """Names of the parameters and buffers that came from the file, and of those that did not."""

    loaded: list[str]
    fresh: list[str]

    def summary(self) -> str:
        """One line for a person: counts, and the fresh ones by their first two name parts."""
        parts = sorted({".".join(name.split(".")[:2]) for name in self.fresh})
        return f"{len(self.loaded)} tensors loaded, {len(self.fresh)} fresh" + (
            f": {', '.join(parts)}" if parts else ""
        )


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict without ever running code from the file; of ESPnet's `checkpoint.pth` its model.

    Raises:
        UserError: no such file, damaged, or something else than a dictionary of tensors.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such model file")
    if path.is_dir():
        found = ", ".join(sorted(each.name for each in path.glob("*.pth"))[:8])
        raise UserError(f"{path}: a folder; give the model file in it{f': {found}' if found else ''}")
    try:
        with torch.serialization.safe_globals(_PLAIN):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged or foreign file
        raise UserError(
            f"{path}: cannot be read as a file of tensors "
            f"({type(error).__name__}). "
            "It is damaged, or it holds pickled objects, which are never executed here"
        ) from None
    if isinstance(state, dict) and {"model", "optimizers", "reporter"} <= state.keys():
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"{path}: expected a dictionary of tensors; give a model (`*epoch.pth`), not a checkpoint"
        )
    return state


def _looked_in(folder: Path) -> str:
    """Which folder a file was looked for in, and what might have been meant."""
    if not folder.is_dir():
        return f"looked for in {folder}, which is not there either"
    found = sorted(each.name for each in folder.glob("*.pth"))
    several = f"{', '.join(found[:8])}{', ...' if len(found) > 8 else ''}"
    return f"looked for in {folder}, which has {several or 'no .pth file'}"


def init_param(model: torch.nn.Module, spec: str, ignore_mismatch: bool = False) -> Initialised:
    """Copy parameters from a file into a model.

    Args:
        model: what is filled, in place.
        spec: ESPnet's `path[:source prefix[:destination[:excluded prefix,...]]]`.
        ignore_mismatch: leave out what the model lacks or holds in another shape, instead of refusing.

    Raises:
        UserError: an unreadable file, names or shapes that do not match, or nothing to load at all.
    """
    path, source, destination, excluded = (spec.split(":") + ["", "", ""])[:4]
    if spec.count(":") > 3:
        raise UserError(
            f"--init_param {spec}: expected path[:source[:destination[:excluded]]] (no colon in the path)"
        )
    if not Path(path).exists():
        raise UserError(
            f"--init_param {spec}: no such model file; {_looked_in(Path(path).absolute().parent)}"
        )
    try:
        state = load_state(path)
    except UserError as error:
        raise UserError(f"--init_param {error}") from None
    skip = tuple(filter(None, excluded.split(",")))
    state = {name: value for name, value in state.items() if not (skip and name.startswith(skip))}
    if source:
        # With the dot, so that `peers.1` does not catch `peers.10`.
        state = {name[len(source) + 1 :]: v for name, v in state.items() if name.startswith(source + ".")}
    prefix = destination + "." if destination else ""
    state = {prefix + name: value for name, value in state.items()}
    own = model.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)} "
        + (f"against {tuple(own[name].shape)}" if name in own else "not in the model")
        for name, value in state.items()
        if name not in own or own[name].shape != value.shape
    ]
    if wrong and not ignore_mismatch:
        listing = "\n  ".join(wrong[:20]) + (f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the model; "
            f"--ignore_init_mismatch true leaves them out:\n  {listing}"
        )
    usable = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    if not usable:
        raise UserError(f"--init_param {spec}: not one tensor fits the model")
    model.load_state_dict(usable, strict=False)
    return Initialised(sorted(usable), sorted(set(own) - set(usable)))
