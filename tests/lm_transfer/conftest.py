"""Small language models, a teacher whose embeddings say what they stand for, and small recognisers."""

import argparse
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import yaml

from espnet_ext.bin import lm_targets
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.dump import Dump, tokenizer_identity
from espnet_ext.lm_transfer.masked_lm import MaskedLM, tokens_digest
from espnet_ext.lm_transfer.store import TargetStore
from espnet_ext.lm_transfer.teachers import SubWords
from tests.toy import SPECAUG, corpus_options, write_corpus

TOKENS = ["<blank>", "<unk>", "<space>", *"abcde", "<sos/eos>"]


def embed(teacher, text):
    """(sub-words with the separator, E) of one transcript."""
    return teacher.embed([teacher.split(text).ids])[0]


class FakeTeacher:
    """Embedding of the sub-word at place u with number y: (u, y, how many there are); the separator's y is
    -1.
    """

    size = 3

    def __init__(self, tokenizer: SpanTokenizer, name: str = "fake"):
        self.tokenizer, self.identity, self.reads = tokenizer, {"kind": name}, []

    def split(self, text: str) -> SubWords:
        return SubWords(self.tokenizer.encode(text), None)

    def embed(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        self.reads += [list(ids) for ids in sequences]
        return [
            np.array([[u, y, len(ids)] for u, y in enumerate([*ids, -1])], dtype=np.float32)
            for ids in sequences
        ]


@pytest.fixture
def tokenizer(tmp_path) -> SpanTokenizer:
    """Characters a to e and the space."""
    (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    return SpanTokenizer(tmp_path / "tokens.txt", "char")


@pytest.fixture
def write_text(tmp_path):
    """Function: (name, {utterance: transcript}) → path of a `text` file."""

    def write(name: str, rows: dict[str, str]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{u} {text}\n" for u, text in sorted(rows.items())))
        return path

    return write


@pytest.fixture
def make_store(tmp_path, tokenizer):
    """Function: (text files, teacher) → complete store."""

    def make(texts, teacher, others=(), folder="targets") -> TargetStore:
        identity = tokenizer_identity(tokenizer.tokens, "char", None)
        Dump(texts, list(others), tokenizer, identity, teacher, tmp_path / folder).run()
        return TargetStore(tmp_path / folder)

    return make


@pytest.fixture
def bert_folder(tmp_path):
    """A BERT of HuggingFace's with random weights, its WordPiece tokenizer in lower case, a window of 16."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde'42", *(f"##{c}" for c in "abcde'42")]
    pieces += ["bad", "##ed", "cab", "学"]
    raw = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    raw.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    folder = tmp_path / "bert"
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gpt_folder(tmp_path):
    """A causal LM with a byte-level tokenizer, without any special token around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "<|end|>"])}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_embd=8, n_layer=2, n_head=2, n_positions=32, bos_token_id=256, eos_token_id=256
    )
    folder = tmp_path / "gpt"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


_FRONT = {
    "token_list": TOKENS,
    "init": None,
    "input_size": None,
    "frontend": "default",
    "frontend_conf": {"n_fft": 256, "hop_length": 160, "n_mels": 20},
    "specaug": None,
    "specaug_conf": {},
    "normalize": "utterance_mvn",
    "normalize_conf": {},
}


@pytest.fixture
def build_asr():
    """Function: → a small joint recogniser with dropout, adopted."""

    def build(**model_conf):
        from espnet2.tasks.asr import ASRTask

        from espnet_ext.asr.model import adopt

        torch.manual_seed(1)
        encoder = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "cgmlp_linear_units": 32}
        encoder |= {"cgmlp_conv_kernel": 7, "linear_units": 32, "dropout_rate": 0.1}
        options = _FRONT | {
            "ctc_conf": {},
            "joint_net_conf": {},
            "preencoder": None,
            "preencoder_conf": {},
            "encoder": "e_branchformer",
            "encoder_conf": encoder,
            "postencoder": None,
            "postencoder_conf": {},
            "decoder": "transformer",
            "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.1},
            "model": "espnet",
            "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, **model_conf},
        }
        masks = {"freq_mask_width_range": [0, 5], "time_mask_width_ratio_range": [0, 0.1]}
        return adopt(ASRTask.build_model(argparse.Namespace(**options)), specaug_conf=masks)

    return build


@pytest.fixture
def build_transducer():
    """Function: → a small transducer with dropout, adopted."""

    def build(**model_conf):
        from espnet2.tasks.asr_transducer import ASRTransducerTask

        from espnet_ext.asr.transducer import adopt

        torch.manual_seed(1)
        block = {"block_type": "ebranchformer", "hidden_size": 16, "linear_size": 32, "heads": 2}
        block |= {"conv_mod_kernel_size": 7, "dropout_rate": 0.1}
        options = _FRONT | {
            "encoder_conf": {"input_conf": {"conv_size": 8}, "body_conf": [block]},
            "decoder": "rnn",
            "decoder_conf": {"embed_size": 8, "hidden_size": 12, "dropout_rate": 0.1},
            "joint_network_conf": {"joint_space_size": 10},
            "model_conf": model_conf,
        }
        masks = {"freq_mask_width_range": [0, 5], "time_mask_width_ratio_range": [0, 0.1]}
        return adopt(ASRTransducerTask.build_model(argparse.Namespace(**options)), specaug_conf=masks)

    return build


#: Transcripts of the utterances of `speech`, in their order.
TRANSCRIPTS = {"utt0": "bad cab", "utt1": "ace", "utt2": "e", "utt3": "dad"}


@pytest.fixture
def make_batch(tokenizer):
    """Function: {utterance: transcript} → a batch of the loop, of noise of different lengths."""
    from espnet_ext.train.data import Batch

    def make(rows: dict[str, str]) -> Batch:
        draw = torch.Generator().manual_seed(2)
        lengths = torch.tensor([12000, 9000, 4000, 7000]).repeat(len(rows))[: len(rows)]
        tokens = [torch.tensor(tokenizer.encode(text), dtype=torch.long) for text in rows.values()]
        tensors = {
            "speech": torch.randn(len(rows), 12000, generator=draw),
            "speech_lengths": lengths,
            "text": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1),
            "text_lengths": torch.tensor([len(each) for each in tokens]),
        }
        return Batch(list(rows), tensors)

    return make


@pytest.fixture
def speech(make_batch):
    """Four utterances of different lengths."""
    return make_batch(TRANSCRIPTS)


@pytest.fixture
def transcripts(write_text):
    """`text` file of the utterances of `speech`."""
    return write_text("dump/text", TRANSCRIPTS)


@pytest.fixture
def fake_teacher(tokenizer):
    return FakeTeacher(tokenizer)


class OneStep:
    """A stream that gives the same utterances in every step, in two micro-batches."""

    seed = 3

    def __init__(self, batch):
        from espnet_ext.train.method import Totals
        from espnet_ext.train.streams import StreamStep

        labels = int(batch.tensors["text_lengths"].sum()) + len(batch.utterances)
        totals = Totals(len(batch.utterances), labels, 0)
        self.step = StreamStep(totals, list(enumerate(batch.split())), batch.utterances, 1, 0)

    def augment_keys(self, batch, passes: int) -> list[int]:
        from espnet_ext.train.keys import key

        return [key(self.seed, "augment", passes, utterance) for utterance in batch.utterances]

    def run(self, method, steps: int) -> list:
        """Steps of the training loop; returns the figures of each."""
        from espnet_ext.train.method import Position
        from espnet_ext.train.runner import StepRunner
        from espnet_ext.train.world import World

        runner = StepRunner(method, {"labelled": self}, World(), self.seed)
        method.train()
        updates = []
        for number in range(steps):
            position = Position(1, number, number)
            for turn in method.turns(position):
                updates.append(runner.run(turn, {"labelled": self.step}, {}, position))
        assert all(update.finite for update in updates)
        return [update.figures for update in updates]

    def micro_batches(self) -> list:
        """What a loss of the first step is called with."""
        from espnet_ext.train.method import MicroBatch

        return [
            MicroBatch(batch, self.step.totals, self.augment_keys(batch, 1), (0, number), (self.seed,))
            for number, batch in self.step.batches
        ]


@pytest.fixture
def one_step(speech):
    return OneStep(speech)


@pytest.fixture
def make_updater():
    """Function: (module, learning rate) → AdamW with clipping."""

    def make(module: torch.nn.Module, lr: float = 0.003):
        from espnet_ext.train.method import Updater

        return Updater(torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.1), None, 1.0)

    return make


def _flatten(value, name: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a nested state by path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {n: t for key, each in items for n, t in _flatten(each, f"{name}/{key}").items()}


@pytest.fixture
def assert_same_training():
    """Function: (method, control, tolerance) → parameters, buffers and optimiser state are equal."""

    def check(method, control, tolerance: float = 0.0) -> None:
        for state in (lambda m: m.modules["model"].state_dict(), lambda m: m.updaters["model"].state()):
            ours, theirs = _flatten(state(method)), _flatten(state(control))
            assert ours.keys() == theirs.keys() and len(ours) > 10
            for name, value in theirs.items():
                if tolerance:
                    torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance, msg=name)
                else:
                    assert torch.equal(ours[name], value), name

    return check


#: Options of every training on the toy corpus.
_TRAINING = {
    "frontend": "default",
    "frontend_conf": {"fs": 16000, "n_fft": 256, "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
    "specaug": "specaug",
    "specaug_conf": SPECAUG,
    "token_type": "char",
    "max_epoch": 2,
    "frames_per_step": 300,
    "optim": "adamw",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmupdecay",
    "scheduler_conf": {"warmup_steps": 3},
    "log_interval": 100,
    "num_workers": 0,
    "keep_nbest_models": 2,
}

_ATTENTION = {
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "num_blocks": 1,
        "cgmlp_linear_units": 32,
        "cgmlp_conv_kernel": 7,
        "linear_units": 32,
        "dropout_rate": 0.1,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.1},
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
}

_TRANSDUCER = {
    "encoder_conf": {
        "input_conf": {"conv_size": 8},
        "body_conf": [
            {
                "block_type": "ebranchformer",
                "hidden_size": 16,
                "linear_size": 32,
                "heads": 2,
                "conv_mod_kernel_size": 7,
                "dropout_rate": 0.1,
            }
        ],
    },
    "decoder": "rnn",
    "decoder_conf": {"embed_size": 8, "hidden_size": 12, "dropout_rate": 0.1},
    "joint_network_conf": {"joint_space_size": 10},
}


@pytest.fixture
def toy_training(tmp_path, tokenizer):
    """Function: (kind of model, experiment, options) → command line; a corpus of noise with transcripts of
    a to e.
    """
    import yaml

    write_corpus(tmp_path, TOKENS, "abcde", most=5, dump="corpus")
    for name, model in (("attention", _ATTENTION), ("transducer", _TRANSDUCER)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(_TRAINING | model))

    def command(kind: str, experiment: str, *options: str) -> list[str]:
        options_of = corpus_options(tmp_path, tmp_path / experiment, f"{kind}.yaml", dump="corpus")
        return [*options_of, *options]

    return command


@pytest.fixture
def dump(tmp_path):
    """Function: teacher → exit status of `lm_targets` for the toy corpus."""

    def run(teacher, *options: str) -> int:
        return lm_targets.main(
            [
                f"--teacher={teacher}",
                f"--text={tmp_path / 'corpus' / 'text'}",
                f"--other_text={tmp_path / 'corpus' / 'text'}",
                f"--token_list={tmp_path / 'tokens.txt'}",
                "--token_type=char",
                f"--out_dir={tmp_path / 'targets'}",
                *options,
            ]
        )

    return run


@pytest.fixture
def masked_folder(tmp_path, tokenizer):
    """What `lm_train` writes, with random parameters, which dropout would change."""
    torch.manual_seed(0)
    shape = {"size": 16, "heads": 2, "blocks": 3, "dropout_rate": 0.5}
    folder = tmp_path / "masked"
    folder.mkdir()
    torch.save(MaskedLM(len(tokenizer), **shape).state_dict(), folder / "lm.pth")
    about = {"model": shape, "tokens": tokens_digest(tokenizer.tokens), "epochs": [1]}
    (folder / "lm.yaml").write_text(yaml.safe_dump(about))
    return folder
