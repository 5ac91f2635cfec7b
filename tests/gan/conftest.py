"""Critics and sequences small enough to check by hand, a tiny recogniser, and a corpus of noise bursts."""

import argparse

import pytest
import torch
import yaml

from tests.toy import SPECAUG, corpus_options, write_corpus

TOKENS = ["<blank>", "<unk>", *"abcdefgh", "<sos/eos>"]

MODEL = {
    "token_type": "char",
    "frontend_conf": {"fs": 16000, "n_fft": 256, "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
    "normalize_conf": {},
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
}


@pytest.fixture(
    params=[("none", "none"), ("batch", "none"), ("layer", "leaky_relu"), ("batch", "gelu")], ids="-".join
)
def critic(request):
    """A critic in double precision, of every kind; V = 5, width 6, kernels of 2 and 3."""
    from espnet_ext.gan.critic import Critic

    norm, activation = request.param
    torch.manual_seed(3)
    return Critic(5, 6, (2, 3), norm, activation).double()


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real and fake distributions (3, 7, 5) and their lengths; zeros behind the ends."""
    from espnet_ext.gan.sequences import real_sequences

    generator = torch.Generator().manual_seed(4)
    lengths = torch.tensor([7, 5, 4])
    valid = torch.arange(7)[None] < lengths[:, None]
    targets = torch.randint(0, 5, (3, 7), generator=generator).masked_fill(~valid, -1)
    fake = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64).softmax(-1)
    return real_sequences(targets, 5).double(), fake.masked_fill(~valid[..., None], 0.0), lengths


@pytest.fixture(scope="session")
def build_espnet():
    """Function: options → ESPnet's own model of the toy corpus's tokens."""
    from espnet2.tasks.asr import ASRTask

    defaults = vars(ASRTask.get_parser().parse_args(["--output_dir", "-", "--token_list", "-"]))

    def build(**options):
        config = {**defaults, "token_list": TOKENS, **options, "specaug": None}
        return ASRTask.build_model(argparse.Namespace(**config))

    return build


@pytest.fixture
def recogniser(build_espnet):
    """Function: changes of the configuration → a tiny recogniser with random weights, dropout and masks."""

    def build(padding: str = "exact", augment: bool = True, **changes):
        from espnet_ext.asr.model import adopt

        config = {**MODEL}
        for name, value in changes.items():
            # The options of another encoder are not those of ours with changes.
            merge = isinstance(value, dict) and name.removesuffix("_conf") not in changes
            config[name] = {**config[name], **value} if merge else value
        torch.manual_seed(1)
        return adopt(build_espnet(**config), padding, SPECAUG if augment else None)

    return build


class Data:
    """A stream of one fixed batch, cut into micro-batches."""

    seed = 7

    def __init__(self, cuts=((0, 4),), utterances: int = 4, shortest: int = 2):
        from espnet_ext.train.data import Batch
        from espnet_ext.train.method import Totals

        draw = torch.Generator().manual_seed(2)
        lengths = torch.randint(4000, 12000, (utterances,), generator=draw)
        speech = torch.randn(utterances, int(lengths.max()), generator=draw)
        speech = speech.masked_fill(torch.arange(speech.size(1))[None] >= lengths[:, None], 0.0)
        text_lengths = torch.randint(shortest, 7, (utterances,), generator=draw)
        text = torch.randint(2, 10, (utterances, 6), generator=draw)
        text = text.masked_fill(torch.arange(6)[None] >= text_lengths[:, None], -1)
        names = [f"utt{i}" for i in range(utterances)]
        tensors = {"speech": speech, "speech_lengths": lengths, "text": text, "text_lengths": text_lengths}
        self.names = names
        self.totals = Totals(utterances, int(text_lengths.sum()) + utterances, int(lengths.sum()) // 160)
        self.batches = []
        for number, (start, end) in enumerate(cuts):
            part = {name: value[start:end] for name, value in tensors.items()}
            # As a loader does: a micro-batch is as wide as its own longest.
            part["speech"] = part["speech"][:, : int(part["speech_lengths"].max())]
            part["text"] = part["text"][:, : int(part["text_lengths"].max())]
            self.batches.append((number, Batch(names[start:end], part)))

    def augment_keys(self, batch, passes: int) -> list[int]:
        from espnet_ext.train.keys import key

        return [key(self.seed, "augment", passes, name) for name in batch.utterances]

    def step(self, passes: int = 1):
        from espnet_ext.train.streams import StreamStep

        return StreamStep(self.totals, self.batches, self.names, passes, 0)


@pytest.fixture
def data():
    """Function: cuts into micro-batches → a stream of one batch (see `Data`)."""
    return Data


@pytest.fixture
def train():
    """Function: (method, data, steps) → runs whole steps as the loop does; returns each step's figures."""

    def run(method, stream: Data, steps: int, on_turn=lambda turn: None) -> list[dict]:
        from espnet_ext.train.method import Position
        from espnet_ext.train.runner import StepRunner
        from espnet_ext.train.world import World

        runner = StepRunner(method, {"labelled": stream}, World(), stream.seed)
        method.train()
        rows = []
        for number in range(steps):
            position, kept, figures = Position(1, number, number), {}, {}
            for turn in method.turns(position):
                update = runner.run(turn, {"labelled": stream.step(number + 1)}, kept, position)
                assert update.finite
                figures |= {name: float(a) / float(b) for name, (a, b) in update.figures.items()}
                on_turn(turn)
            method.after_step(position)
            rows.append(figures)
        return rows

    return run


@pytest.fixture
def make_method(recogniser):
    """Function: options → the method with a tiny recogniser and critic; `kind="none"` is the control."""

    def make(
        kind: str = "gan",
        loss_norm: str = "utterance",
        lr: float = 1e-3,
        model=None,
        optimizer: type = torch.optim.Adam,
        critic_conf: dict | None = None,
        alarm_conf: dict | None = None,
        **gan_conf,
    ):
        from espnet_ext.asr.method import JointMethod
        from espnet_ext.gan.critic import Critic
        from espnet_ext.gan.method import GANMethod
        from espnet_ext.gan.options import AlarmOptions, GANOptions
        from espnet_ext.train.method import Updater

        model = model if model is not None else recogniser()
        updater = Updater(optimizer(model.parameters(), lr=lr))
        if kind == "none":
            return JointMethod(model, updater, loss_norm)
        torch.manual_seed(9)
        critic = Critic(len(TOKENS), 8, **{"kernel_sizes": (2, 2), **(critic_conf or {})})
        opponent = Updater(optimizer(critic.parameters(), lr=lr))
        alarms = AlarmOptions(**(alarm_conf or {}))
        return GANMethod(model, updater, critic, opponent, GANOptions(**gan_conf), alarms, loss_norm)

    return make


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory):
    """Folder with `dump` (wav.scp, text), `stats` (shapes), `tokens.txt` and `train.yaml`; 12 utterances."""
    folder = tmp_path_factory.mktemp("toy corpus")
    write_corpus(folder, TOKENS, "abcdefgh")
    training = {
        "specaug": "specaug",
        "specaug_conf": SPECAUG,
        "max_epoch": 2,
        "frames_per_step": 450,
        "frames_per_micro_batch": "200",
        "optim": "adam",
        "optim_conf": {"lr": 0.002},
        "optim2": "adam",
        "optim2_conf": {"lr": 0.002, "betas": [0.5, 0.98]},
        "critic_conf": {"width": 8, "norm": "layer", "activation": "leaky_relu"},
        "gan_conf": {"lambda_d": 0.1},
        "alarm_conf": {"interval": 3},
        "log_interval": 1,
        "num_workers": 0,
    }
    frontend = {"frontend": "default"}
    (folder / "train.yaml").write_text(yaml.safe_dump({**MODEL, **frontend, **training}))
    return folder


@pytest.fixture
def toy_command(toy_corpus):
    """Function: (experiment folder, extra options) → command line of the task `gan`."""

    def command(exp_dir, *extra: str) -> list[str]:
        return [*corpus_options(toy_corpus, exp_dir), *extra]

    return command
