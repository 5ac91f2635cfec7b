"""Reading an exported model back, for decoding in batches."""

import argparse
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.tasks.asr_transducer import ASRTransducerTask as ESPnetTransducerTask

from espnet_ext.asr.model import ASRModel, adopt
from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.asr.transducer import adopt as adopt_transducer
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.train.init_param import load_state
from espnet_ext.yamls import parse_yaml


def read_config(path: str | Path) -> dict:
    """Read a model's YAML configuration.

    Raises:
        UserError: no such file, or not a YAML mapping with every key once.
    """
    config = parse_yaml("\n".join(line for _, line in read_lines(path)), path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a mapping of options, found {type(config).__name__}")
    return config


def check_keys(state: dict, expected: dict, source: str | Path) -> None:
    """Refuse a state dict whose names or shapes are not exactly the model's (ESPnet loads it in silence).

    Raises:
        UserError: listing what is missing, what is too many and what has another shape.
    """
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    shapes = sorted(n for n in set(state) & set(expected) if state[n].shape != expected[n].shape)
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
            for what, names in (
                ("missing", missing),
                ("not in the model", extra),
                ("of another shape", shapes),
            )
            if names
        ]
        raise UserError(f"{source}: does not fit its configuration: {'; '.join(parts)}")


def is_transducer(config: dict) -> bool:
    """Whether a configuration is of ESPnet's stand-alone transducer: it alone has a joint network."""
    return "joint_network_conf" in config


def build_stock(config: dict) -> torch.nn.Module:
    """ESPnet's own model of an exported configuration whose paths are resolved."""
    # As ESPnet's own build_model_from_file: options that the file lacks are left to build_model's defaults.
    task = ESPnetTransducerTask if is_transducer(config) else ESPnetASRTask
    return task.build_model(argparse.Namespace(**{**config, "specaug": None}))


def load_exported(
    model_dir: str | Path, device: str = "cpu", padding: str = "exact"
) -> ASRModel | TransducerModel:
    """Load an exported model (`config.yaml` and `model.pth` in one folder) for decoding.

    Args:
        model_dir: what stage 9 (export) wrote; paths inside the configuration are relative to it.
        device: torch device.
        padding: `exact` or `espnet` (see `espnet_ext.asr.model.adopt`).

    Returns:
        the model in evaluation mode; `export_config` holds its configuration.

    Raises:
        UserError: files are missing, damaged or do not fit each other.
    """
    model_dir = Path(model_dir)
    config = read_config(model_dir / "config.yaml")
    absent = [name for name in ("token_list", "encoder_conf") if name not in config]
    if absent:
        raise UserError(f"{model_dir / 'config.yaml'}: is no recogniser's, it lacks {', '.join(absent)}")
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    if stats is not None and not (model_dir / stats).exists():
        raise UserError(f"{model_dir / stats}: named in {model_dir}/config.yaml and not there")
    resolved = dict(config)
    if stats is not None:
        resolved["normalize_conf"] = {**config["normalize_conf"], "stats_file": str(model_dir / stats)}
    model = build_stock(resolved)
    state = load_state(model_dir / "model.pth")
    check_keys(state, model.state_dict(), model_dir / "model.pth")
    model.load_state_dict(state)
    adopted = adopt_transducer(model, padding) if is_transducer(config) else adopt(model, padding)
    model = adopted.to(device).eval()
    if config.get("streaming_chunk"):
        # Decoded as it streams: nothing beyond a frame's chunk is heard.
        model.encoder.evaluation_chunk = int(config["streaming_chunk"])
    model.export_config = config
    return model
