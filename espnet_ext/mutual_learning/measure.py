"""Calibration of an exported model's attention decoder on a labelled set, as one line of JSON.

Legend: B batch, U labels with <eos>, V tokens.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask as ESPnetASRTask

from espnet_ext.asr.load import load_exported
from espnet_ext.asr.model import ASRModel
from espnet_ext.errors import UserError, main_guard
from espnet_ext.mutual_learning.calibration import Calibration
from espnet_ext.train.batches import plan_sorted
from espnet_ext.train.data import Batch, SpeechData


@torch.no_grad()
def measure(model: ASRModel, batches: Iterable[Batch], bins: int = 15) -> Calibration:
    """Calibration under teacher forcing, without dropout and masks.

    Args:
        model: with an attention decoder; it is left in evaluation mode.
        batches: of labelled speech, on the model's device.
        bins: number of intervals of the expected calibration error.

    Raises:
        UserError: the model has no attention decoder.
    """
    if model.decoder is None:
        raise UserError(
            "this model has no attention decoder (ctc_weight 1), whose posteriors are measured here"
        )
    model.eval()
    calibration = Calibration(bins)
    for batch in batches:
        output = model.outputs(**batch.tensors)
        calibration.add(output.decoder_out, output.targets, model.ignore_id)
    return calibration


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Measure one model on one set."""
    parser = argparse.ArgumentParser(prog="measure", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", type=Path, required=True, help="exported model (stage 9)")
    parser.add_argument("--data_dir", type=Path, required=True, help="dumped, labelled set (stage 3)")
    parser.add_argument("--stats_dir", type=Path, required=True, help="its lengths (stage 5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="speech that is computed at once")
    parser.add_argument("--bins", type=int, default=15, help="intervals of the expected calibration error")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0)
    args = parser.parse_args(argv)
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no GPU here; measure with --ngpu 0")
    device = "cuda" if args.ngpu else "cpu"
    model = load_exported(args.model_dir, device)
    data = SpeechData(
        str(args.data_dir), str(args.stats_dir), _preprocess(args.model_dir, model.export_config)
    )
    rate = "100"  # stored frames a second
    if model.export_config.get("input_size") is None:
        rate = str((model.export_config.get("frontend_conf") or {}).get("fs", 16000)).replace("k", "000")
    plan = plan_sorted(data.lengths, int(args.seconds * int(rate)))
    calibration = measure(model, data.batches(plan, 0, device), args.bins)
    figures = {name: round(value, 6) for name, value in calibration.figures().items()}
    about = {
        "model_dir": str(args.model_dir),
        "data_dir": str(args.data_dir),
        "labels": calibration.positions,
    }
    print(json.dumps({**about, "bins": args.bins, **figures}))


def _preprocess(model_dir: Path, config: dict):
    """ESPnet's own way from a transcript to labels, as the model was trained with."""
    if config.get("bpemodel"):
        config = {**config, "bpemodel": str(model_dir / config["bpemodel"])}
    defaults = {"use_preprocessor": True, "non_linguistic_symbols": None, "cleaner": None, "g2p": None}
    return ESPnetASRTask.build_preprocess_fn(argparse.Namespace(**{**defaults, **config}), train=False)


if __name__ == "__main__":
    sys.exit(main())
