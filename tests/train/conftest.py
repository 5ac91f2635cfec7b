"""A few seconds of noise bursts as a corpus, and the command line that trains a tiny recogniser on it."""

import numpy as np
import pytest
import soundfile
import yaml

from tests.toy import TOY

TOKENS = ["<blank>", "<unk>", "<space>", *"abcd", "<sos/eos>"]

CONFIG = {
    **TOY,
    "normalize": "utterance_mvn",
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False,
        "freq_mask_width_range": [0, 5],
        "time_mask_width_ratio_range": [0, 0.1],
    },
    "token_type": "char",
    "max_epoch": 3,
    "frames_per_step": 900,
    "log_interval": 1,
}


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory):
    """Folder with `dump` (wav.scp, text), `stats` (shapes), `tokens.txt` and `train.yaml`; 24 utterances."""
    folder = tmp_path_factory.mktemp("toy corpus")  # with a space: paths must survive it
    draw = np.random.default_rng(0)
    lines: dict[str, list[str]] = {name: [] for name in ("wav.scp", "text", "speech_shape", "text_shape")}
    for number in range(24):
        name = f"utt{number:02d}"
        samples = int(draw.integers(6000, 24000))
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, samples), 16000)
        text = "".join(draw.choice(list("abcd"), int(draw.integers(2, 8))))
        lines["wav.scp"].append(f"{name} {folder / f'{number}.wav'}")
        lines["text"].append(f"{name} {text}")
        lines["speech_shape"].append(f"{name} {samples}")
        lines["text_shape"].append(f"{name} {len(text)},{len(TOKENS)}")
    for target, names in (("dump", ("wav.scp", "text")), ("stats", ("speech_shape", "text_shape"))):
        (folder / target).mkdir()
        for name in names:
            (folder / target / name).write_text("\n".join(lines[name]) + "\n")
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture(scope="session")
def toy_cmd(toy_corpus):
    """Function: (experiment folder, extra options) → command line of `espnet_ext.bin.asr_train`."""

    def command(exp_dir, *extra: str) -> list[str]:
        c = toy_corpus
        data = [f"--{s}_data_dir={c / 'dump'}" for s in ("train", "valid")]
        stats = [f"--{s}_stats_dir={c / 'stats'}" for s in ("train", "valid")]
        tokens = ["--token_list", str(c / "tokens.txt")]
        config = ["--config", str(c / "train.yaml"), "--output_dir", str(exp_dir)]
        return [*config, *data, *stats, *tokens, *extra]

    return command


@pytest.fixture
def toy_command(toy_cmd):
    """The same, under the name that most tests use."""
    return toy_cmd
