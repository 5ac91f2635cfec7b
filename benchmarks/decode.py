"""Stage 10 beside ESPnet's own ``asr_inference``: joint beam search with the same model, data and options.

Run from the repository: ``python benchmarks/decode.py``. Without ``--model_dir`` and ``--data_dir`` the
model has random weights and the audio is made up: such a model never ends a hypothesis, so the search runs
to 25 tokens. A system is one process with one thread, its start included. ESPnet decodes the first
``--espnet_utterances`` only, since it takes long; its numbers are for these.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from record import record, timed
from tones import make_tones

#: About the size of the default recipe's model: 3 million parameters.
MODEL = {
    "token_list": ["<blank>", "<unk>", *(f"t{index}" for index in range(197)), "<sos/eos>"],
    "token_type": "word",
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 144,
        "attention_heads": 4,
        "num_blocks": 4,
        "cgmlp_linear_units": 512,
        "linear_units": 512,
        "attention_layer_type": "rel_selfattn",
        "pos_enc_layer_type": "rel_pos",
        "rel_pos_type": "latest",
        "use_ffn": True,
        "macaron_ffn": True,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 4, "linear_units": 512, "num_blocks": 2},
    "frontend_conf": {"hop_length": 160},
    "normalize": "utterance_mvn",
    "normalize_conf": {},
    "specaug": None,
}
SEARCH = {"beam_size": 5, "ctc_weight": 0.3}


def make_model(folder: Path) -> None:
    """Write an exported model with random weights."""
    import torch
    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(0)
    config = {**ASRTask.get_default_config(), **MODEL}
    model = ASRTask.build_model(argparse.Namespace(**config))
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pth")
    plain = {name: value for name, value in config.items() if not callable(value)}
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")


def first_lines(source: Path, target: Path, count: int) -> list[str]:
    """Copy the first lines of a file; return the ids in them."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    target.write_text("".join(lines), encoding="utf-8")
    return [line.split()[0] for line in lines]


def texts(path: Path) -> dict[str, str]:
    """Text of every utterance."""
    rows = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: text.strip() for name, _, text in rows}


def main() -> None:
    """Measure both systems once, and compare their texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", type=Path, help="an exported model")
    parser.add_argument("--data_dir", type=Path, help="a dumped set; audio paths must be absolute")
    parser.add_argument("--hours", type=float, default=0.5, help="hours of made-up audio")
    parser.add_argument("--espnet_utterances", type=int, default=50, help="utterances that ESPnet decodes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_dir, data_dir, search = arguments.model_dir, arguments.data_dir, dict(SEARCH)
        if model_dir is None:
            model_dir = folder / "model"
            make_model(model_dir)
            search["maxlenratio"] = -25
        if data_dir is None:
            data_dir = folder / "dump"
            make_tones(folder / "data", arguments.hours)
            module = [sys.executable, "-m", "espnet_ext.bin.make_features"]
            timed([*module, "--in_dir", folder / "data", "--out_dir", data_dir], cwd=folder)
        run(folder, model_dir.resolve(), data_dir.resolve(), search, arguments.espnet_utterances)


def run(folder: Path, model_dir: Path, data_dir: Path, search: dict, espnet_utterances: int) -> None:
    """Measure ESPnet on the first utterances and this package on all of them."""
    names = first_lines(data_dir / "wav.scp", folder / "some.scp", espnet_utterances)
    stock = [sys.executable, "-m", "espnet2.bin.asr_inference", "--ngpu", "0", "--output_dir", "espnet"]
    stock += ["--asr_train_config", "config.yaml", "--asr_model_file", "model.pth"]
    stock += ["--data_path_and_name_and_type", f"{folder / 'some.scp'},speech,sound"]
    stock += [word for option, value in search.items() for word in (f"--{option}", str(value))]
    stock[stock.index("espnet")] = str(folder / "espnet")
    (folder / "search.yaml").write_text(yaml.safe_dump({"method": "joint", **search}), encoding="utf-8")
    ours = [sys.executable, "-m", "espnet_ext.bin.decode", "--model_dir", str(model_dir)]
    ours += ["--data_dir", str(data_dir), "--config", "search.yaml", "--out_dir", "ours"]
    # The audio of a set is named relative to the recipe's folder, the model's files relative to the model's.
    for system, command, cwd in (("espnet", stock, model_dir), ("ours", ours, folder)):
        wall, cpu = timed(command, cwd=cwd, OMP_NUM_THREADS="1")
        lengths = texts(data_dir / "utt2num_samples")
        decoded = names if system == "espnet" else list(lengths)
        seconds = sum(int(lengths[name]) for name in decoded) / 16000
        figures = {"utterances": len(decoded), "audio_seconds": round(seconds), **search}
        rates = {"wall_rtf": round(wall / seconds, 4), "cpu_rtf": round(cpu / seconds, 4)}
        record("decode", system, **figures, wall=round(wall, 1), cpu=round(cpu, 1), **rates)
    theirs, mine = texts(folder / "espnet" / "1best_recog" / "text"), texts(folder / "ours" / "text")
    same = sum(theirs[name] == mine[name] for name in names)
    print(f"{same} of {len(names)} utterances have the same text")


if __name__ == "__main__":
    main()
