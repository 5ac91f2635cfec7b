"""Statistics of features, held against the front end whose features they are to normalise."""

import torch

from espnet_ext.errors import UserError


def check_statistics(model: torch.nn.Module, stats_file: str | None) -> None:
    """Refuse statistics of another number of features; without it a forward pass fails in a subtraction.

    Args:
        model: ESPnet's, with `frontend` and `normalize`, either of which may be None.
        stats_file: that `normalize` was made from.

    Raises:
        UserError: names the file and both numbers.
    """
    mean = getattr(model.normalize, "mean", None)
    if mean is None or model.frontend is None:
        return
    own, found = int(model.frontend.output_size()), mean.numel()
    if own != found:
        raise UserError(
            f"{stats_file}: is of {found} features a frame, this model's front end (frontend_conf) makes "
            f"{own}. Stage 5 takes it with the front end of --pretrain_config: give both the same n_mels"
        )
