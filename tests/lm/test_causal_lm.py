"""The language model of decoding: from sentences to a model that stock ESPnet loads."""

import csv
import math

import pytest
import torch
import yaml

from espnet_ext.bin import causal_lm_train
from espnet_ext.errors import UserError
from espnet_ext.lm.load import load_lm

TOKENS = ["<blank>", "<unk>", *"abcde", "<sos/eos>"]
CONFS = {
    "seq_rnn": "{unit: 16, nlayers: 1}",
    "transformer": "{att_unit: 16, embed_unit: 8, head: 2, unit: 16, layer: 1}",
}


@pytest.fixture
def train(tmp_path):
    """Function: options → exit status. The sentences are pieces of "abcdeabcde...": each letter follows from
    the one before."""
    rows = [f"s{i:03d} {('abcde' * 3)[i % 5 : i % 5 + 4 + i % 4]}\n" for i in range(60)]
    (tmp_path / "text").write_text("".join(rows))
    (tmp_path / "dev").write_text("".join(rows[:20]))
    (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))

    def run(*options: str) -> int:
        paths = {"output_dir": "lm", "text": "text", "valid_text": "dev", "token_list": "tokens.txt"}
        words = [f"--{name}={tmp_path / file}" for name, file in paths.items()]
        more = ["--token_type=char", "--tokens_per_step=100", "--warmup_steps=5", "--lr=0.02"]
        return causal_lm_train.main([*words, *more, *options])

    return run


@pytest.mark.parametrize("kind", CONFS)
def test_learns_and_stock_espnet_loads_it(train, tmp_path, kind):
    assert train(f"--lm={kind}", f"--lm_conf={CONFS[kind]}", "--max_epoch=6", "--nbest=2") == 0
    from espnet2.tasks.lm import LMTask

    with open(tmp_path / "lm/history.csv") as handle:
        losses = [float(row["valid_loss"]) for row in csv.DictReader(handle) if row.get("valid_loss")]
    assert losses[-1] < 0.6 * losses[0] and losses[-1] < math.log(
        3
    )  # the first letter is one of five, the end is free
    folder = tmp_path / "lm/export"
    stock, _ = LMTask.build_model_from_file(folder / "config.yaml", folder / "model.pth", "cpu")
    ours = load_lm(folder, TOKENS)
    ids = torch.tensor([[7, 2, 3, 4]])
    with torch.no_grad():
        stock.eval()
        expected, _ = stock.lm(ids, None)
        found, _ = ours(ids, None)
        nll, _ = stock.nll(torch.tensor([[2, 3, 4, 5], [4, 5, 6, 0]]), torch.tensor([4, 3]))
    assert torch.equal(found, expected)
    assert expected[0, -1].argmax() == 5, "after a, b, c comes d"
    assert nll[0, 1:4].max() < 0.7 and nll[1, -1] == 0
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) == {
        "lm",
        "lm_conf",
        "model",
        "model_conf",
        "init",
        "token_list",
        "token_type",
    }


def test_a_step_cut_into_pieces_is_the_same_step(tmp_path):
    """The mean is over the tokens of the step, whatever the micro-batch."""
    from espnet2.lm.espnet_model import ESPnetLanguageModel
    from espnet2.lm.seq_rnn_lm import SequentialRNNLM

    from espnet_ext.lm.causal import CausalLMMethod
    from espnet_ext.lm.text_data import with_ends
    from espnet_ext.train.data import Batch
    from espnet_ext.train.method import MicroBatch, Totals, Updater

    model = ESPnetLanguageModel(SequentialRNNLM(8, 6, nlayers=1), 8)
    method = CausalLMMethod(model, Updater(torch.optim.SGD(model.parameters(), lr=1.0)))
    sentences = [[2, 3, 4], [5], [6, 2, 3, 4, 5], [3, 3]]
    totals = Totals(4, sum(len(each) + 1 for each in sentences), 0)

    def loss(part):
        ids, lengths = with_ends(part, 7)
        names = [str(number) for number in range(len(part))]
        return method.part(MicroBatch(Batch(names, {"ids": ids, "lengths": lengths}), totals, None)).loss

    whole = loss(sentences)
    assert torch.allclose(whole, loss(sentences[:1]) + loss(sentences[1:]), atol=1e-6)
    # By hand: what the network gives to each next token, <sos/eos> first and last.
    by_hand = 0.0
    for sentence in sentences:
        scores, _ = model.lm(torch.tensor([[7, *sentence]]), None)
        by_hand += torch.nn.functional.cross_entropy(scores[0], torch.tensor([*sentence, 7]), reduction="sum")
    assert torch.allclose(whole, by_hand / totals.labels, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--lm_conf={layers: 3}"], "lm_conf .*layers"),
        (["--lm=seq_rnn", "--lm_conf={unit: 8, nhid: 4, tie_weights: true}"], "lm_conf .*nhid"),
        (["--text=nowhere"], "nowhere: no such file"),
    ],
)
def test_bad_options_are_refused(train, capsys, options, message):
    import re

    assert train(*options) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("content", ["lm: gpt", "lm_conf: 3", "unknown: 1", "- a"])
def test_a_bad_yaml_is_refused(train, tmp_path, capsys, content):
    (tmp_path / "lm.yaml").write_text(content)
    assert train(f"--config={tmp_path / 'lm.yaml'}") == 1
    assert "lm.yaml" in capsys.readouterr().err


def test_a_model_with_other_tokens_or_parameters_is_refused(train, tmp_path):
    assert train("--lm=seq_rnn", f"--lm_conf={CONFS['seq_rnn']}", "--max_epoch=1", "--nbest=1") == 0
    folder = tmp_path / "lm/export"
    with pytest.raises(UserError, match="another token list"):
        load_lm(folder, TOKENS[::-1])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "lm_conf": {"unit": 12, "nlayers": 1}}))
    with pytest.raises(UserError, match="of another shape"):
        load_lm(folder, TOKENS)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "lm": "unheard"}))
    with pytest.raises(UserError, match="cannot build a language model"):
        load_lm(folder, TOKENS)
    (folder / "model.pth").write_bytes(b"cut short")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="cannot be read"):
        load_lm(folder, TOKENS)
