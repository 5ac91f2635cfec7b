"""Calibration of exported models' attention decoders on a labelled set, under teacher forcing.

Legend: B batch, U labels with <eos>, V tokens.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.train.collate_fn import CommonCollateFn

from espnet_ext.asr.load import load_exported
from espnet_ext.asr.model import ASRModel
from espnet_ext.data.kaldi import read_table
from espnet_ext.data.lengths import sample_rate
from espnet_ext.decode.batches import make_batches
from espnet_ext.decode.calibration import Calibration
from espnet_ext.decode.source import Source
from espnet_ext.errors import UserError
from espnet_ext.train.data import Batch


def open_models(model_dirs: Sequence[Path], device: str = "cpu") -> list[ASRModel]:
    """Exported models that are to be measured, alone or as an ensemble.

    Raises:
        UserError: a model that cannot be read or has no attention decoder, or models with other tokens.
    """
    models = [load_exported(folder, device) for folder in model_dirs]
    for model, folder in zip(models, model_dirs, strict=True):
        if getattr(model, "decoder", None) is None or not isinstance(model, ASRModel):
            raise UserError(f"{folder}: has no attention decoder, whose posteriors are measured here")
        if model.export_config["token_list"] != models[0].export_config["token_list"]:
            raise UserError(f"{folder}: has other tokens than {model_dirs[0]}; their posteriors have no mean")
    return models


@torch.no_grad()
def measure(models: Sequence[ASRModel], batches: Iterable[Batch], bins: int = 15) -> tuple[Calibration, int]:
    """Calibration under teacher forcing, without dropout and masks.

    Args:
        models: with an attention decoder; of several, their mean posterior is measured. They are left in
            evaluation mode.
        batches: of labelled speech, on the models' device.
        bins: number of intervals of the expected calibration error.

    Returns:
        the calibration, and the number of utterances that are too short for the encoder to hear anything.
    """
    ignore_id = models[0].ignore_id
    for model in models:
        model.eval()
    calibration, deaf = Calibration(bins), 0
    for batch in batches:
        try:
            outputs = [model.outputs(**batch.tensors) for model in models]
        except TooShortUttError:  # all of them: the longest counts
            deaf += len(batch.utterances)
            continue
        heard = torch.stack([each.encoder_out_lens for each in outputs]).amin(0) > 0  # (B,)
        deaf += int((~heard).sum())
        targets = outputs[0].targets.masked_fill(~heard.to(outputs[0].targets.device)[:, None], ignore_id)
        scores = outputs[0].decoder_out
        if len(models) > 1:
            scores = torch.stack([each.decoder_out.double().log_softmax(-1) for each in outputs]).logsumexp(0)
        calibration.add(scores, targets, ignore_id)
    return calibration, deaf


def measure_set(
    models: Sequence[ASRModel], model_dir: Path, data_dir: Path, seconds: float = 60.0, bins: int = 15
) -> tuple[Calibration, int]:
    """Measure on a dumped set (stage 3).

    Args:
        models: as `open_models` gives them.
        model_dir: of the first one, which its tokenizer is read from.
        data_dir: with `text`.
        seconds: speech that is computed at once.
        bins: as `measure`.

    Returns:
        the calibration, and the number of utterances that are too short for the encoder.

    Raises:
        UserError: a set that cannot be read, without transcripts, or with nothing to measure.
    """
    config = models[0].export_config
    rate = sample_rate((config.get("frontend_conf") or {}).get("fs", 16000))
    source = Source(data_dir, rate, config.get("input_size"))
    texts = read_table(data_dir / "text", empty_values=True)
    device = next(models[0].parameters()).device
    batches = _batches(source, texts.rows, _preprocess(model_dir, config), seconds, device)
    calibration, deaf = measure(models, batches, bins)
    if not calibration.positions:
        raise UserError(f"{data_dir}: holds no utterance whose labels can be measured")
    return calibration, deaf


def _batches(
    source: Source, texts: dict[str, str], preprocess, seconds: float, device: torch.device
) -> Iterator[Batch]:
    """Batches of the utterances that have a transcript; ESPnet's preprocessor makes its labels."""
    collate = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)
    utterances = [each for each in source.utterances() if each.name in texts]
    for group in make_batches(utterances, seconds):
        data = []
        for each in group:
            made = preprocess(each.name, {"speech": source.read(each.name), "text": texts[each.name]})
            data.append((each.name, made))
        names, tensors = collate(data)
        yield Batch(names, {name: tensor.to(device) for name, tensor in tensors.items()})


def _preprocess(model_dir: Path, config: dict):
    """ESPnet's own way from a transcript to labels, as the model was trained with."""
    if config.get("bpemodel"):
        config = {**config, "bpemodel": str(model_dir / config["bpemodel"])}
    defaults = {"use_preprocessor": True, "non_linguistic_symbols": None, "cleaner": None, "g2p": None}
    return ESPnetASRTask.build_preprocess_fn(argparse.Namespace(**{**defaults, **config}), train=False)
