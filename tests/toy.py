"""The smallest recogniser that trains and a corpus of noise bursts for it, for tests that run trainings."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TOY = {
    "frontend": "default",
    "frontend_conf": {"fs": 16000, "n_fft": 256, "hop_length": 160, "n_mels": 20},
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "num_blocks": 1,
        "cgmlp_linear_units": 32,
        "cgmlp_conv_kernel": 7,
        "use_ffn": True,
        "linear_units": 32,
        "dropout_rate": 0.1,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.1},
    "optim": "adamw",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmupdecay",
    "scheduler_conf": {"warmup_steps": 3},
    "num_workers": 0,
}

#: Of ESPnet's `specaug`, for utterances of a second.
SPECAUG = {
    "apply_time_warp": False,
    "freq_mask_width_range": [0, 5],
    "time_mask_width_ratio_range": [0, 0.1],
}


def write_corpus(
    folder: Path,
    tokens: Sequence[str],
    letters: str,
    count: int = 12,
    longest: int = 16000,
    most: int = 7,
    dump: str = "dump",
) -> None:
    """Write ``<dump>`` (wav.scp, text), ``stats`` (shapes) and ``tokens.txt``: what a training reads.

    Args:
        folder: to write to.
        tokens: the token list.
        letters: of which transcripts are made.
        count: utterances.
        longest: samples at 16 kHz of an utterance, at most; the shortest has 6000.
        most: letters of an utterance; at least 2.
        dump: name of the data directory.
    """
    import soundfile

    draw = np.random.default_rng(0)
    lines: dict[str, list[str]] = {name: [] for name in ("wav.scp", "text", "speech_shape", "text_shape")}
    for number in range(count):
        name, samples = f"utt{number:02d}", int(draw.integers(6000, longest))
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, samples), 16000)
        text = "".join(draw.choice(list(letters), int(draw.integers(2, most + 1))))
        lines["wav.scp"].append(f"{name} {folder / f'{number}.wav'}")
        lines["text"].append(f"{name} {text}")
        lines["speech_shape"].append(f"{name} {samples}")
        lines["text_shape"].append(f"{name} {len(text)},{len(tokens)}")
    for target, names in ((dump, ("wav.scp", "text")), ("stats", ("speech_shape", "text_shape"))):
        (folder / target).mkdir()
        for name in names:
            (folder / target / name).write_text("\n".join(lines[name]) + "\n")
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")


def corpus_options(folder: Path, exp_dir: Path, config: str = "train.yaml", dump: str = "dump") -> list[str]:
    """Command line of a training that trains and validates on that corpus."""
    data = [f"--{s}_data_dir={folder / dump}" for s in ("train", "valid")]
    stats = [f"--{s}_stats_dir={folder / 'stats'}" for s in ("train", "valid")]
    tokens = ["--token_list", str(folder / "tokens.txt")]
    return ["--config", str(folder / config), "--output_dir", str(exp_dir), *data, *stats, *tokens]


def history(folder: Path) -> list[dict[str, float]]:
    """Rows of the epochs of a training, without what is empty."""
    with open(next(folder.glob("*.csv")), encoding="utf-8") as handle:
        return [{n: float(v) for n, v in row.items() if v} for row in csv.DictReader(handle)]
