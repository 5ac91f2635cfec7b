"""Tiny teachers of every kind, and a corpus of noise."""

import argparse
import json

import numpy as np
import pytest
import torch

TOKENS = ["<blank>", "<unk>", "<space>", *"abcde", "<sos/eos>"]

_CONV = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
_SIZE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}


def save_huggingface(kind: str, folder, seed: int = 0, rate: int = 16000, **changes):
    """Write a network with random weights as `save_pretrained` does; kind is its model type."""
    import transformers

    torch.manual_seed(seed)
    about = {"sampling_rate": rate, "do_normalize": True, "feature_size": 1}
    if kind == "whisper":
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=3,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            num_mel_bins=20,
            max_source_positions=100,  # two seconds
            vocab_size=20,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
        return folder
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio"}
    config = getattr(transformers, f"{name[kind]}Config")(**{**_CONV, **_SIZE, **changes})
    model = getattr(transformers, f"{name[kind]}Model")(config)
    for parameter in model.parameters():
        # Zeros and ones would hide what padding does, and small weights that frames differ.
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
        else:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def huggingface(tmp_path):
    """Function: (model type, options) → folder of a tiny network with random weights."""

    def make(kind: str, name: str = "", **options):
        return save_huggingface(kind, tmp_path / (name or kind), **options)

    return make


def speech_like(draw: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose loudness changes, so that frames differ."""
    loud = np.repeat(draw.uniform(0.01, 0.3, samples // 1600 + 1), 1600)[:samples]
    return (draw.normal(0, 1, samples) * loud).clip(-1, 1).astype(np.float32)


@pytest.fixture
def utterances() -> list[np.ndarray]:
    """Four utterances of different lengths, half a second to a second."""
    draw = np.random.default_rng(0)
    return [speech_like(draw, samples) for samples in (16000, 12321, 9000, 8007)]


FRONT = {
    "token_list": TOKENS,
    "init": None,
    "input_size": None,
    "frontend": "default",
    "frontend_conf": {"fs": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "normalize": None,
    "normalize_conf": {},
}


def transducer_config(
    size: int = 16, blocks: int = 1, hop: int = 160, main=None, n_fft: int = 512, **conf
) -> dict:
    """Options of a small transducer; ESPnet's E-Branchformer blocks."""
    block = {"block_type": "ebranchformer", "hidden_size": size, "linear_size": 32, "heads": 2}
    block |= {"conv_mod_kernel_size": 7, "depth_conv_kernel_size": 3, "num_blocks": blocks}
    return FRONT | {
        "frontend_conf": FRONT["frontend_conf"] | {"hop_length": hop, "n_fft": n_fft},
        "encoder_conf": {"main_conf": main or {}, "input_conf": {"conv_size": 8}, "body_conf": [block]},
        "decoder": "rnn",
        "decoder_conf": {"embed_size": 8, "hidden_size": 12},
        "joint_network_conf": {"joint_space_size": 10},
        "model_conf": conf,
    }


def build_transducer(seed: int = 1, exact: bool = True, specaug: dict | None = None, **options):
    """A small transducer with random weights."""
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    from espnet_ext.asr.transducer import adopt

    torch.manual_seed(seed)
    config = transducer_config(**options)
    model = ASRTransducerTask.build_model(argparse.Namespace(**config, specaug=None, specaug_conf={}))
    return adopt(model, specaug_conf=specaug) if exact else model


def write_exported(folder, model, config: dict):
    """What stage 9 would write."""
    import yaml

    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def save_recogniser(folder, seed: int = 1, size: int = 16, blocks: int = 2):
    """A small exported attention/CTC recogniser with random weights."""
    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(seed)
    encoder = {"output_size": size, "attention_heads": 2, "num_blocks": blocks, "cgmlp_linear_units": 32}
    encoder |= {"cgmlp_conv_kernel": 7, "use_ffn": True, "linear_units": 32}
    config = FRONT | {
        "ctc_conf": {},
        "joint_net_conf": {},
        "preencoder": None,
        "preencoder_conf": {},
        "encoder": "e_branchformer",
        "encoder_conf": encoder,
        "postencoder": None,
        "postencoder_conf": {},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
        "model": "espnet",
        "model_conf": {"ctc_weight": 0.3},
    }
    model = ASRTask.build_model(argparse.Namespace(**config, specaug=None, specaug_conf={}))
    return write_exported(folder, model, config)


@pytest.fixture
def recogniser(tmp_path):
    """Function: (name, options) → folder of an exported recogniser."""

    def make(name: str = "recogniser", **options):
        return save_recogniser(tmp_path / name, **options)

    return make


@pytest.fixture
def write_set(tmp_path):
    """Function: (name, {utterance: samples}) → a dumped data directory."""
    import soundfile

    def write(name: str, audio: dict[str, np.ndarray], rate: int = 16000, text: dict | None = None):
        folder = tmp_path / name
        (folder / "audio").mkdir(parents=True)
        scp, lengths = [], []
        for number, (utterance, samples) in enumerate(sorted(audio.items())):
            path = folder / "audio" / f"{number}.wav"
            soundfile.write(path, samples, rate, subtype="PCM_16")
            scp.append(f"{utterance} {path}\n")
            lengths.append(f"{utterance} {len(samples)}\n")
        (folder / "wav.scp").write_text("".join(scp))
        (folder / "utt2num_samples").write_text("".join(lengths))
        (folder / "content").write_text(f"{name} {sum(map(len, audio.values()))}\n")
        if text is not None:
            (folder / "text").write_text("".join(f"{u} {text[u]}\n" for u in sorted(text)))
        return folder

    return write


class NoiseTeacher:
    """A teacher without a network: fixed random projections of the samples of each frame."""

    rate = 16000

    def __init__(self, size: int = 6, seed: int = 0, scale: float = 1.0, shift: int = 320):
        draw = torch.Generator().manual_seed(seed)
        self.size, self.shift, self.module = size, shift, torch.nn.Linear(1, 1)
        self.matrix = scale * torch.randn(shift, size, generator=draw)
        self.identity, self.heard = {"kind": "noise", "seed": seed, "size": size}, 0

    def frames(self, samples: int) -> int:
        return (samples - 400) // self.shift + 1

    def embed(self, audio):
        self.heard += len(audio)
        found = []
        for samples in audio:
            frames = self.frames(len(samples))
            used = np.asarray(samples[: self.shift * frames])
            used = np.pad(used, (0, self.shift * frames - len(used)))
            rows = torch.from_numpy(used).view(frames, self.shift)
            found.append(rows @ self.matrix)
        return found


@pytest.fixture
def noise_teacher():
    return NoiseTeacher


#: Options of every training on the toy corpus.
TRAINING = {
    "frontend": "default",
    "frontend_conf": FRONT["frontend_conf"],
    "normalize": None,
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False,
        "freq_mask_width_range": [0, 5],
        "time_mask_width_ratio_range": [0, 0.1],
    },
    "encoder_conf": transducer_config()["encoder_conf"],
    "decoder": "rnn",
    "decoder_conf": {"embed_size": 8, "hidden_size": 12, "dropout_rate": 0.1},
    "joint_network_conf": {"joint_space_size": 10},
    "model_conf": {"auxiliary_ctc_weight": 0.3},
    "token_type": "char",
    "max_epoch": 2,
    "frames_per_step": 300,
    "optim": "adamw",
    "optim_conf": {"lr": 0.003},
    "scheduler": "warmupdecay",
    "scheduler_conf": {"warmup_steps": 3},
    "log_interval": 100,
    "num_workers": 0,
    "keep_nbest_models": 2,
}


class Toy:
    """A corpus of noise with transcripts, stores of its embeddings, and command lines."""

    def __init__(self, folder, write_set):
        draw = np.random.default_rng(0)
        self.folder = folder
        self.audio = {f"u{n:02d}": speech_like(draw, int(draw.integers(8000, 16000))) for n in range(12)}
        self.text = {u: "".join(draw.choice(list("abcde"), int(draw.integers(2, 6)))) for u in self.audio}
        self.data = write_set("corpus", self.audio, text=self.text)
        further = {f"v{n}": speech_like(draw, int(draw.integers(8000, 16000))) for n in range(5)}
        self.unlabelled = write_set("further", further)
        for name, audio in (("stats", self.audio), ("further_stats", further)):
            (folder / name).mkdir()
            lines = "".join(f"{u} {len(audio[u])}\n" for u in sorted(audio))
            (folder / name / "speech_shape").write_text(lines)
        (folder / "stats" / "text_shape").write_text(
            "".join(f"{u} {len(t)},9\n" for u, t in self.text.items())
        )
        (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))
        self.teachers = {"one": NoiseTeacher(6, 1), "two": NoiseTeacher(10, 2, 30.0)}

    def dump(self, storage: str = "fp16", place: str = "targets", **teachers):
        """Write stores of all sets; returns their folder."""
        from espnet_ext.distillation.dump import Dump, DumpOptions

        for name, teacher in (teachers or self.teachers).items():
            options = DumpOptions(640, 16000, storage=storage, shard_seconds=4.0, batch_seconds=2.0)
            Dump(name, teacher, [self.data], [self.unlabelled], self.folder / place / name, options).run()
        return self.folder / place

    def command(self, experiment: str, *options: str, **changes) -> list[str]:
        """Options of a training; changes are those of the YAML."""
        import yaml

        config = self.folder / f"{experiment}.yaml"
        config.write_text(yaml.safe_dump(TRAINING | changes))
        sets = [f"--{s}_data_dir={self.data}" for s in ("train", "valid")]
        stats = [f"--{s}_stats_dir={self.folder / 'stats'}" for s in ("train", "valid")]
        return [
            f"--config={config}",
            f"--output_dir={self.folder / experiment}",
            f"--token_list={self.folder / 'tokens.txt'}",
            *sets,
            *stats,
            *options,
        ]

    def args(self, task, *options: str, **changes):
        """Parsed options, with a token list, as `_train` has them."""
        args = task.get_parser().parse_args(self.command("args", *options, **changes))
        args.token_list = list(TOKENS)
        return args


@pytest.fixture
def toy(tmp_path, write_set):
    return Toy(tmp_path, write_set)
