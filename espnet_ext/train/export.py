"""From an experiment to a plain ESPnet model that needs nothing of this package."""

import json
import shutil
from pathlib import Path

import torch
import yaml

from espnet_ext.asr.load import build_stock, check_keys, load_exported, read_config
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_dir, atomic_write_text
from espnet_ext.train.averaging import average
from espnet_ext.train.checkpoint import save_tensors
from espnet_ext.train.exported import facts, ranking

#: What stock ESPnet needs to build the model and its tokenizer; everything else is about training.
INFERENCE_KEYS = """
token_list init input_size ctc_conf joint_net_conf use_preprocessor token_type bpemodel non_linguistic_symbols
cleaner g2p frontend frontend_conf normalize normalize_conf model model_conf preencoder preencoder_conf
encoder encoder_conf
postencoder postencoder_conf decoder decoder_conf joint_network_conf preprocessor preprocessor_conf
streaming_chunk
""".split()

#: Largest difference between the outputs of the trained model and of the export, as a part of their scale.
TOLERANCE = 1e-5


def export(exp_dir: str | Path, out_dir: str | Path, nbest: int, criterion: str | None = None) -> list[int]:
    """Average the n best epochs and write them as a plain ESPnet model.

    Writes `config.yaml`, `model.pth`, `feats_stats.npz`, `bpe.model`, `export.json`; paths in the
    configuration are relative to the folder. The written model is read back by stock ESPnet's own
    construction code, its names are compared in both directions, and its encoder's output is compared with
    the trained model's.

    Args:
        exp_dir: a finished training.
        out_dir: written whole or not at all.
        nbest: number of epochs to average, best first.
        criterion: by what, as `valid_acc`: one of the training's `best_model_criterion`; None is its first.

    Returns:
        the averaged epochs.

    Raises:
        UserError: the training is not finished, or the export does not compute what the model computes.
        OSError: the disk is full, for instance; an export that was there is untouched.
    """
    exp_dir, out_dir = Path(exp_dir), Path(out_dir)
    epochs = ranking(exp_dir, criterion)["epochs"][:nbest]
    state = average([exp_dir / f"{epoch}epoch.pth" for epoch in epochs])
    trained = read_config(exp_dir / "config.yaml")
    config = {name: trained[name] for name in INFERENCE_KEYS if name in trained} | {"specaug": None}
    config["normalize_conf"] = dict(config.get("normalize_conf") or {})
    with atomic_dir(out_dir) as folder:
        stats = config["normalize_conf"].get("stats_file")
        if stats is not None:
            shutil.copyfile(stats, folder / "feats_stats.npz")
            config["normalize_conf"]["stats_file"] = "feats_stats.npz"
        if config.get("bpemodel"):
            shutil.copyfile(config["bpemodel"], folder / "bpe.model")
            config["bpemodel"] = "bpe.model"
        save_tensors(state, folder / "model.pth")
        atomic_write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        about = facts(exp_dir, nbest, criterion) | {"reads": _reads(config)}
        atomic_write_text(folder / "export.json", json.dumps(about, indent=1) + "\n")
        _compare(folder, config, state)
    return epochs


def _reads(config: dict) -> str:
    return "audio" if config.get("input_size") is None else "stored filterbanks (stock ESPnet needs them too)"


@torch.no_grad()
def _compare(folder: Path, config: dict, state: dict) -> None:
    """Hold ESPnet's own model, built from what was written, against ours on one random utterance."""
    resolved = {**config, "normalize_conf": dict(config["normalize_conf"])}
    if "stats_file" in resolved["normalize_conf"]:
        resolved["normalize_conf"]["stats_file"] = str(folder / "feats_stats.npz")
    stock = build_stock(resolved).eval()
    check_keys(state, stock.state_dict(), folder / "model.pth")
    stock.load_state_dict(state)
    ours = load_exported(folder)
    generator = torch.Generator().manual_seed(0)
    if config.get("input_size") is None:
        speech = torch.randn(1, 16000, generator=generator)
    else:
        speech = torch.randn(1, 100, config["input_size"], generator=generator)
    length = torch.tensor([speech.size(1)])
    theirs, mine = (_encode(model, speech, length) for model in (stock, ours))
    error = float((theirs - mine).abs().max() / theirs.abs().max())
    if not error <= TOLERANCE:
        broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
        if broken:
            raise UserError(
                f"{folder.name}: the averaged model is not finite ({broken[0]}, for one): one of its epochs "
                "had diverged; see history.csv of its training"
            )
        raise UserError(
            f"{folder.name}: stock ESPnet computes something else, relative difference {error:.1e}"
        )


def _encode(model: torch.nn.Module, speech: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Encoder's output, as ESPnet's recognisers and ours compute it; whole utterances, without chunks."""
    if hasattr(model.encoder, "dynamic_chunk_training"):
        model.encoder.dynamic_chunk_training = False  # stock ESPnet would draw a chunk's size
    if hasattr(model, "encode"):
        return model.encode(speech, length)[0]
    features, length = model._extract_feats(speech, length)
    if model.normalize is not None:
        features, length = model.normalize(features, length)
    return model.encoder(features, length)[0]
