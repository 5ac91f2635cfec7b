"""A few seconds of noise bursts as a corpus, and the command line that trains a tiny recogniser on it."""

import pytest
import yaml

from tests.toy import SPECAUG, TOY, corpus_options, write_corpus

TOKENS = ["<blank>", "<unk>", "<space>", *"abcd", "<sos/eos>"]

CONFIG = {
    **TOY,
    "normalize": "utterance_mvn",
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
    "specaug": "specaug",
    "specaug_conf": SPECAUG,
    "token_type": "char",
    "max_epoch": 3,
    "frames_per_step": 900,
    "log_interval": 1,
}


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory):
    """Folder with `dump` (wav.scp, text), `stats` (shapes), `tokens.txt` and `train.yaml`; 24 utterances."""
    folder = tmp_path_factory.mktemp("toy corpus")  # with a space: paths must survive it
    write_corpus(folder, TOKENS, "abcd", count=24, longest=24000)
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture(scope="session")
def toy_cmd(toy_corpus):
    """Function: (experiment folder, extra options) → command line of `espnet_ext.bin.asr_train`."""

    def command(exp_dir, *extra: str) -> list[str]:
        return [*corpus_options(toy_corpus, exp_dir), *extra]

    return command


@pytest.fixture
def toy_command(toy_cmd):
    """The same, under the name that most tests use."""
    return toy_cmd
