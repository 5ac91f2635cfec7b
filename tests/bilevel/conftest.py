"""A corpus of tones that come and go, labelled and not, and trainings of a tiny recogniser on it."""

import numpy as np
import pytest
import soundfile
import torch
import yaml

TOKENS = ["<blank>", "<unk>", "<space>", *"abcd", "<sos/eos>"]

CONFIG = {
    "frontend": "default",
    "frontend_conf": {"fs": 16000, "n_fft": 256, "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
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
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False,
        "freq_mask_width_range": [0, 5],
        "time_mask_width_ratio_range": [0, 0.1],
    },
    "token_type": "char",
    "max_epoch": 4,
    "frames_per_step": 450,
    "loss_norm": "token",
    "optim": "adamw",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmupdecay",
    "scheduler_conf": {"warmup_steps": 3},
    "log_interval": 100,
    "num_workers": 0,
}

#: What only the tasks with unlabelled speech know.
UNLABELLED = {
    "unlabelled_frames_per_step": 600,
    "ssl": "bestrq",
    "ssl_conf": {"mask_span": 4, "codes": 32},
}

INFONCE = {"ssl": "infonce", "ssl_conf": {"context": 8, "least_context": 2, "future": 4, "stride": 6}}

BILEVEL = {
    "optim2": "adamw",
    "optim2_conf": {"lr": 0.004},
    "optim3": "adamw",
    "optim3_conf": {"lr": 0.001},
    "bilevel_conf": {
        "warm_epochs": 1,
        "final_epochs": 1,
        "explore_steps": 2,
        "gamma_increment": 0.25,
        "gamma_maximum": 1.5,
        "gamma_per": "step",
    },
}

NOTES = {"a": 400.0, "b": 900.0, "c": 2000.0, "d": 4500.0}


def sing(text: str, draw: np.random.Generator) -> np.ndarray:
    """0.15 s of tone and 0.05 s of pause a letter, in a little noise."""
    time = np.arange(2400) / 16000
    pieces = [draw.normal(0, 0.01, 1600)]
    for letter in text:
        pieces += [0.3 * np.sin(2 * np.pi * NOTES[letter] * time), np.zeros(800)]
    song = np.concatenate(pieces)
    return song + draw.normal(0, 0.01, len(song))


def write_set(folder, name: str, count: int, seed: int, text: bool) -> None:
    draw = np.random.default_rng(seed)
    files = ("wav.scp", "speech_shape") + (("text", "text_shape") if text else ())
    lines: dict[str, list[str]] = {file: [] for file in files}
    for number in range(count):
        words = "".join(draw.choice(list("abcd"), int(draw.integers(3, 8))))
        samples = sing(words, draw)
        utterance = f"{name}{number:02d}"
        soundfile.write(folder / f"{utterance}.wav", samples, 16000)
        values = {
            "wav.scp": folder / f"{utterance}.wav",
            "speech_shape": len(samples),
            "text": words,
            "text_shape": f"{len(words)},{len(TOKENS)}",
        }
        for file in files:
            lines[file].append(f"{utterance} {values[file]}")
    for target, names in (("dump", ("wav.scp", "text")), ("stats", ("speech_shape", "text_shape"))):
        (folder / target / name).mkdir(parents=True)
        for file in set(names) & set(files):
            (folder / target / name / file).write_text("\n".join(lines[file]) + "\n")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder with `dump/` and `stats/` of a labelled and an unlabelled set, `tokens.txt` and YAML files."""
    folder = tmp_path_factory.mktemp("tones and pauses")
    write_set(folder, "labelled", 12, 1, True)
    write_set(folder, "unlabelled", 20, 2, False)
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    ssl = CONFIG | UNLABELLED
    for name, config in (
        ("asr", CONFIG),
        ("ssl", ssl),
        ("ssl_infonce", ssl | INFONCE),
        ("bilevel", ssl | BILEVEL),
        ("bilevel_infonce", ssl | INFONCE | BILEVEL),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def command(corpus):
    """Function: (name of one of its YAML files, experiment folder, extra options) → a command line."""

    def make(name: str, exp_dir, *extra: str) -> list[str]:
        options = [f"--{s}_data_dir={corpus / 'dump/labelled'}" for s in ("train", "valid")]
        options += [f"--{s}_stats_dir={corpus / 'stats/labelled'}" for s in ("train", "valid")]
        if not name.startswith("asr"):
            options += [
                f"--unlabelled_{what}_dir={corpus / folder / 'unlabelled'}" for what, folder in FOLDERS
            ]
        config = ["--config", str(corpus / f"{name}.yaml"), "--output_dir", str(exp_dir)]
        return [*config, *options, "--token_list", str(corpus / "tokens.txt"), *map(str, extra)]

    return make


FOLDERS = (("data", "dump"), ("stats", "stats"))


def conf(**values) -> list[str]:
    """`--bilevel_conf name=value` for each."""
    return [word for name, value in values.items() for word in ("--bilevel_conf", f"{name}={value}")]


@pytest.fixture(scope="session")
def bilevel_conf():
    """Function: options → words of the command line."""
    return conf


class Training:
    """A task's model, streams and method, advanced step by step as the loop does, without its files."""

    def __init__(self, task: type, cmd: list[str]):
        from espnet_ext.train.keys import seed_torch
        from espnet_ext.train.runner import StepRunner
        from espnet_ext.train.world import World

        self.args = task.get_parser().parse_args(cmd)
        seed_torch(self.args.seed, "initial parameters")
        self.model = task.build_model(self.args)
        self.streams = task.build_streams(self.args, World())
        self.method = task.build_method(self.args, self.model, self.streams)
        self.runner = StepRunner(self.method, self.streams, World(), self.args.seed)
        self.method.train()
        self.epoch, self.step_in_epoch, self.step = 1, 0, 0
        self.figures: list[dict] = []

    def advance(self, steps: int) -> None:
        """Make so many steps."""
        from espnet_ext.train.method import Position

        for _ in range(steps):
            position = Position(self.epoch, self.step_in_epoch, self.step)
            data, kept, figures = {}, {}, {}
            for turn in self.method.turns(position):
                for part in turn.parts:
                    data.setdefault(part.source, None)
                    data[part.source] = data[part.source] or self.streams[part.source].next()
                update = self.runner.run(turn, data, kept, position)
                assert update.finite
                figures |= update.figures
            figures |= self.method.after_step(position)
            means = {n: float(total) / weight for n, (total, weight) in figures.items() if weight}
            self.figures.append(means)
            self.step, self.step_in_epoch = self.step + 1, self.step_in_epoch + 1
            if self.step_in_epoch == self.method.epoch_steps(self.epoch, self.streams):
                self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def micro(self, name: str, number: int = 0):
        """A micro-batch of a stream, as the loop would make it."""
        from espnet_ext.train.method import MicroBatch

        stream = self.streams[name]
        step = stream.next()
        _, batch = step.batches[0]
        keys = stream.augment_keys(batch, step.passes)
        return MicroBatch(batch, step.totals, keys, (self.step, number), (stream.seed,))


@pytest.fixture
def training(command, tmp_path):
    """Function: (task, name of its YAML, extra options) → Training."""
    return lambda task, name, *extra: Training(task, command(name, tmp_path / "exp", *extra))


def same(one, other) -> bool:
    """Equal to the bit, through dictionaries and lists."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.fixture(scope="session")
def equal():
    """Function: whether two nested structures are equal to the bit."""
    return same
