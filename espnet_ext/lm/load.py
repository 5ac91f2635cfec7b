"""Reading a language model back: ours, or one that stock ESPnet trained.

A folder holds ``config.yaml`` and ``model.pth`` as ESPnet's LM task reads them: ``lm``, ``lm_conf`` and
``token_list``, and parameters named ``lm.*``.
"""

import argparse
from pathlib import Path

import torch
from espnet2.tasks.lm import LMTask

from espnet_ext.asr.load import check_keys, read_config
from espnet_ext.errors import UserError
from espnet_ext.train.init_param import load_state

_DEFAULTS = {"lm": "seq_rnn", "lm_conf": {}, "model": "lm", "model_conf": {}}
CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.pth"


def load_lm(folder: Path, tokens: list[str], device: str | torch.device = "cpu") -> torch.nn.Module:
    """Load a language model for decoding.

    Args:
        folder: of ``config.yaml`` and ``model.pth``.
        tokens: the recogniser's token list, which must be the model's.
        device: torch device.

    Returns:
        ESPnet's ``TransformerLM`` or ``SequentialRNNLM`` (an ``AbsLM``) in evaluation mode.

    Raises:
        UserError: files are missing, damaged or do not fit each other, or the model has other tokens.
    """
    config = read_config(folder / CONFIG_FILE)
    own = config.get("token_list")
    if not isinstance(own, list):
        raise UserError(f"{folder / CONFIG_FILE}: token_list: expected the list of tokens, found {own!r}")
    if own != tokens:
        raise UserError(
            f"{folder}: this language model has another token list ({len(own)} tokens) than the recogniser "
            f"({len(tokens)}); train it with the recogniser's (stage 6, --use_lm true)"
        )
    try:
        model = LMTask.build_model(argparse.Namespace(**{**_DEFAULTS, **config, "init": None}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / CONFIG_FILE}: ESPnet cannot build a language model from it ({error})"
        ) from None
    state = load_state(folder / WEIGHTS_FILE)
    check_keys(state, model.state_dict(), folder / WEIGHTS_FILE)
    model.load_state_dict(state)
    return model.lm.to(device).eval()
