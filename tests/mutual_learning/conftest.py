"""Small joint recognisers, a batch for them, and a few seconds of noise as a corpus."""

import argparse
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.schedulers.warmup_lr import WarmupLR

from espnet_ext.mutual_learning.method import Peer
from espnet_ext.train.data import Batch
from espnet_ext.train.method import MicroBatch, Position, Totals, Updater
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.streams import Stream, StreamStep
from espnet_ext.train.world import World
from tests.toy import TOY, corpus_options, write_corpus

TOKENS = ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"]


def options(size: int = 16, dropout: float = 0.1) -> dict:
    """Options of ESPnet's ASRTask.build_model for a recogniser of a few thousand parameters."""
    nothing = ("preencoder", "postencoder", "specaug", "input_size")
    rates = {"dropout_rate": dropout, "positional_dropout_rate": dropout}
    return {
        **{f"{name}_conf": {} for name in ("ctc", "joint_net", "specaug", "normalize", *nothing)},
        **dict.fromkeys(nothing),
        **{name: TOY[name] for name in ("frontend", "frontend_conf", "encoder", "decoder")},
        "token_list": list(TOKENS),
        "init": "xavier_uniform",
        "normalize": "utterance_mvn",
        "encoder_conf": {**TOY["encoder_conf"], "output_size": size, **rates},
        "decoder_conf": {**TOY["decoder_conf"], **rates},
        "model": "espnet",
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False},
    }


SPECAUG = {"apply_time_warp": False, "freq_mask_width_range": [0, 5], "time_mask_width_ratio_range": [0, 0.2]}


@pytest.fixture
def build_asr():
    """Function: (seed, size, dropout) → an adopted recogniser with random weights."""

    def build(seed: int = 1, size: int = 16, dropout: float = 0.1):
        from espnet2.tasks.asr import ASRTask

        from espnet_ext.asr.model import adopt

        torch.manual_seed(seed)
        model = ASRTask.build_model(argparse.Namespace(**options(size, dropout)))
        return adopt(model, specaug_conf=dict(SPECAUG))

    return build


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four utterances of different lengths with labels."""
    draw = torch.Generator().manual_seed(2)
    lengths = torch.tensor([16000, 11111, 7003, 4801])
    speech = torch.randn(4, 16000, generator=draw)
    for row, length in enumerate(lengths):
        speech[row, length:] = 0.0
    text_lengths = torch.tensor([9, 6, 4, 2])
    text = torch.randint(2, 12, (4, 9), generator=draw)
    text = text.masked_fill(torch.arange(9)[None] >= text_lengths[:, None], -1)
    return {"speech": speech, "speech_lengths": lengths, "text": text, "text_lengths": text_lengths}


class OneStream:
    """What the step runner asks of a stream."""

    augment_keys = Stream.augment_keys

    def __init__(self, seed: int):
        self.seed = seed


def step_data(batch: dict[str, torch.Tensor], pieces: int = 1) -> StreamStep:
    """A batch as a stream gives it to a step, cut into micro-batches."""
    names = [f"utt{number}" for number in range(len(batch["speech"]))]
    labels = int(batch["text_lengths"].sum()) + len(names)
    whole = [Batch(names, batch)]
    while len(whole) < pieces:
        whole = [half for each in whole for half in each.split()]
    return StreamStep(Totals(len(names), labels, 400), list(enumerate(whole)), names, 1, 0)


@pytest.fixture
def run_steps(batch):
    """Function: train a method for some steps, all on the same batch; returns the last step's updates."""

    def run(method, seed: int = 1, steps: int = 3, pieces: int = 1):
        runner = StepRunner(method, {"labelled": OneStream(seed)}, World(), seed)
        method.train()
        for step in range(steps):
            position, kept = Position(1, step, step), {}
            data = {"labelled": step_data(batch, pieces)}
            updates = [runner.run(turn, data, kept, position) for turn in method.turns(position)]
            assert all(update.finite for update in updates)
        return updates

    return run


@pytest.fixture
def make_peer(build_asr):
    """Function: (name, seed, start, frozen, other options of the model) → a peer, or a teacher."""

    def make(name: str = "peer1", seed: int = 1, start: int | None = None, frozen: bool = False, **model):
        recogniser = build_asr(seed if start is None else start, **model)
        return Peer(name, recogniser, seed, None if frozen else _make_updater(recogniser))

    return make


def _make_updater(model: torch.nn.Module) -> Updater:
    """AdamW with a schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Updater(optimizer, WarmupLR(optimizer, warmup_steps=2), grad_clip=1.0)


@pytest.fixture
def make_updater():
    """Function: model → AdamW over its parameters, with a schedule."""
    return _make_updater


@pytest.fixture
def everything():
    """Function: (model, updater) → parameters, buffers and all tensors of the optimiser, by name."""

    def collect(model: torch.nn.Module, updater: Updater) -> dict[str, torch.Tensor]:
        found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for number, state in updater.optimizer.state_dict()["state"].items():
            found |= {f"{number}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
        return found

    return collect


@pytest.fixture
def make_micro(batch):
    """Function: seed → the batch of one step as the loop hands it to a loss."""

    def make(seed: int = 1) -> MicroBatch:
        step = step_data(batch)
        number, data = step.batches[0]
        return MicroBatch(data, step.totals, OneStream(seed).augment_keys(data, 1), (0, number), (seed,))

    return make


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory):
    """Folder with `dump` (wav.scp, text), `stats` (shapes), `tokens.txt` and `train.yaml`; 12 utterances."""
    folder = tmp_path_factory.mktemp("toy corpus")
    write_corpus(folder, TOKENS, "abcdefghij", most=6)
    model = {
        "normalize": "utterance_mvn",
        "model_conf": options()["model_conf"],
        "specaug": "specaug",
        "specaug_conf": SPECAUG,
        "token_type": "char",
    }
    training = {
        "max_epoch": 2,
        "frames_per_step": 500,
        "loss_norm": "token",
        "grad_clip": 1.0,
        "scheduler_conf": {"warmup_steps": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(TOY | model | training))
    return folder


@pytest.fixture(scope="session")
def toy_cmd(toy_corpus):
    """Function: (experiment folder, further options) → command line of a training on the toy corpus."""

    def command(folder, *more: str) -> list[str]:
        return [*corpus_options(toy_corpus, folder), *more]

    return command


#: Two peers of different sizes, with updates of their own.
PEERS = (
    "[{seed: 0}, {seed: 5, encoder_conf: {output_size: 24}, optim_conf: {lr: 0.003}, grad_clip: 0.5, "
    "scheduler_conf: {warmup_steps: 4}}]"
)


@pytest.fixture(scope="session")
def mutual(toy_cmd, tmp_path_factory) -> Path:
    """Experiment of two such peers at weight zero, with scheduled sampling off; to be read only."""
    from espnet_ext.mutual_learning.task import MutualLearningTask

    folder = tmp_path_factory.mktemp("mutual") / "exp"
    cmd = toy_cmd(folder, "--peers", PEERS, "--mutual_learning_conf", "weight=0.0")
    assert MutualLearningTask.main(cmd=cmd) == 0
    return folder
