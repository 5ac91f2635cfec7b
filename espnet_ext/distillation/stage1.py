"""Taking over what stage 1 has trained: exactly the encoder (and the projections), or nothing.

Legend: none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_ext.asr.load import check_keys, read_config
from espnet_ext.errors import UserError
from espnet_ext.train.averaging import average
from espnet_ext.train.nbest import read_nbest

#: Options on which both stages must agree for the encoder to be the same function of the audio.
_SHARED = ("frontend", "frontend_conf", "normalize", "encoder_conf", "input_size")


@dataclass(frozen=True)
class TakenOver:
    """Names of what came from stage 1, and of the parameters that are as initialised."""

    loaded: list[str]
    fresh: list[str]


def take_over(
    model: torch.nn.Module,
    folder: str | Path,
    config: Mapping,
    nbest: int,
    heads: torch.nn.Module | None = None,
) -> TakenOver:
    """Copy the encoder of a finished stage 1, the average of its best epochs, into a model.

    Args:
        model: the transducer; all but its encoder stays as it is.
        folder: the experiment of stage 1.
        config: of the model.
        nbest: number of epochs.
        heads: projections to be copied too.

    Raises:
        UserError: stage 1 has not finished, or is of another encoder, front end or teachers.
    """
    folder = Path(folder)
    if not (folder / "train_summary.json").exists():
        raise UserError(f"{folder}: stage 1 has not finished; run its stage again, it goes on where it was")
    theirs = read_config(folder / "config.yaml")
    different = [name for name in _SHARED if _plain(theirs.get(name)) != _plain(config.get(name))]
    if different:
        raise UserError(
            f"{folder / 'config.yaml'}: stage 1 had another {', '.join(different)} than this training; take "
            "the same student's YAML for both"
        )
    state = _best(folder, nbest)
    encoder = {name: value for name, value in state.items() if name.startswith("encoder.")}
    own = {name: value for name, value in model.state_dict().items() if name.startswith("encoder.")}
    check_keys(encoder, own, folder)
    model.load_state_dict(encoder, strict=False)
    loaded = sorted(encoder)
    if heads is not None:
        projections = _best(folder / "head", nbest)
        check_keys(projections, heads.state_dict(), folder / "head")
        heads.load_state_dict(projections)
        loaded += sorted(f"head.{name}" for name in projections)
    return TakenOver(loaded, sorted({name for name, _ in model.named_parameters()} - set(encoder)))


def _best(folder: Path, nbest: int) -> dict[str, torch.Tensor]:
    best = read_nbest(folder)["epochs"][:nbest]
    return average([folder / f"{epoch}epoch.pth" for epoch in best], "--init_stage1_nbest")


def _plain(value):
    """A value as YAML would hold it: tuples as lists."""
    return json.loads(json.dumps(value))
