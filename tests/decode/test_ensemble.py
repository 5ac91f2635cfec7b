"""Several models that decode together: held against averages that are computed without any search."""

import json
import shlex

import numpy
import pytest
import torch
import yaml

from espnet_ext.bin.decode import main
from espnet_ext.decode.ensemble import load_models
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.recogniser import Recogniser
from espnet_ext.errors import UserError
from tests.decode.conftest import TOKENS, build_model, model_config, sharpen

JOINT = DecodeOptions(method="joint", beam_size=4, ctc_weight=0.4, maxlenratio=-6)


@pytest.fixture
def write(tmp_path):
    """Function: (name, seed, other options) → folder of an exported model."""

    def make(name: str, seed: int, token_list=TOKENS, **options):
        from espnet_ext.train.export import INFERENCE_KEYS

        model, complete = build_model(model_config(token_list, **options), seed)
        folder = tmp_path / name
        folder.mkdir()
        torch.save((sharpen(model) if model.decoder else model).state_dict(), folder / "model.pth")
        kept = {key: complete[key] for key in INFERENCE_KEYS if key in complete}
        (folder / "config.yaml").write_text(yaml.safe_dump(kept | {"specaug": None}), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def two(write):
    """Models of different sizes."""
    small = model_config(TOKENS)["encoder_conf"] | {"output_size": 16}
    return [write("one", 1), write("two", 2, encoder_conf=small)]


@pytest.fixture
def speech() -> list[numpy.ndarray]:
    draw = numpy.random.default_rng(3)
    return [draw.normal(0, 0.1, samples).astype("float32") for samples in (9000, 6000, 12000)]


@torch.no_grad()
def mean_posteriors(folders, samples, tokens):
    """Mean posteriors of the next token after each prefix of ``tokens`` (U + 1, V), and of CTC (T, V)."""
    written, heard = [], []
    for folder in folders:
        model = load_models(folder)
        memory, lens = model.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        history = torch.tensor([[model.sos, *tokens]])
        scores, _ = model.decoder(memory, lens, history, torch.tensor([history.size(1)]))
        written.append(scores[0].softmax(-1))
        heard.append(model.ctc.softmax(memory)[0])
    return torch.stack(written).mean(0), torch.stack(heard).mean(0)


def test_greedy_search_follows_the_mean(two, speech):
    ways = Recogniser(load_models(two), DecodeOptions(method="attention_greedy", maxlenratio=-6))
    alone = Recogniser(load_models(two[0]), DecodeOptions(method="attention_greedy", maxlenratio=-6))
    different = 0
    for samples, (found,), (single,) in zip(speech, ways(speech), alone(speech), strict=True):
        written, score = [], 0.0
        for _ in range(6):
            after, _ = mean_posteriors(two, samples, written)
            best = int(after[-1].argmax())
            score += float(after[-1, best].log())
            if best == len(TOKENS) - 1:
                break
            written.append(best)
        assert list(found.tokens) == written and found.score == pytest.approx(score, abs=1e-4)
        different += found.tokens != single.tokens
    assert different  # else the second model would have had no say


def test_score_of_the_beam_search_is_that_of_the_means(two, speech):
    blank, eos, ended = 0, len(TOKENS) - 1, 0
    joint = DecodeOptions(method="joint", beam_size=4, ctc_weight=0.4)
    for samples, (found, *_) in zip(speech, Recogniser(load_models(two), joint)(speech), strict=True):
        if found.truncated:
            continue
        ended += 1
        after, frames = mean_posteriors(two, samples, found.tokens)
        attention = sum(float(after[step, token].log()) for step, token in enumerate([*found.tokens, eos]))
        lens = [torch.tensor([len(each)]) for each in (frames, found.tokens)]
        labels = torch.tensor([found.tokens])
        ctc = torch.nn.functional.ctc_loss(frames.log()[:, None], labels, *lens, blank, reduction="sum")
        assert found.score == pytest.approx(0.6 * attention - 0.4 * float(ctc), abs=1e-3)
    assert ended


def test_order_and_copies_change_nothing(two, write, speech):
    def texts(folders):
        found = Recogniser(load_models(folders), JOINT)(speech)
        return [[(each.tokens, round(each.score, 4)) for each in hypotheses] for hypotheses in found]

    assert texts(two) == texts(two[::-1])
    assert texts([two[0], write("copy", 1)]) == texts(two[0])


def test_command_decodes_with_several(two, dumped, tmp_path, capsys):
    (tmp_path / "joint.yaml").write_text("{method: joint, beam_size: 3, maxlenratio: -8}")
    words = ["--data_dir", str(dumped), "--config", str(tmp_path / "joint.yaml")]
    folders = list(map(str, two))
    assert main(["--model_dir", *folders, *words, "--out_dir", str(tmp_path / "both")]) == 0
    summary = json.loads((tmp_path / "both/decode.json").read_text())
    assert summary["model_dir"] == folders and len(set(summary["model_sha256"])) == 2
    assert summary["utterances"] == 7
    text = (tmp_path / "both/text").read_bytes()
    (tmp_path / "both/text").unlink()
    assert main(shlex.split(summary["command"])[3:]) == 0  # what it says it ran does the same
    assert (tmp_path / "both/text").read_bytes() == text
    assert main(["--model_dir", folders[0], *words, "--out_dir", str(tmp_path / "alone")]) == 0
    assert json.loads((tmp_path / "alone/decode.json").read_text())["model_dir"] == folders[0]
    assert (tmp_path / "alone/text").read_bytes() != text


def test_models_that_cannot_decode_together(two, write, speech):
    with pytest.raises(UserError, match="a model occurs twice"):
        load_models([two[0], two[0]])
    with pytest.raises(UserError, match="other/config.yaml: token_list differs from that in .*one/"):
        load_models([two[0], write("other", 3, [*TOKENS[:-2], "z", TOKENS[-1]])])
    frontend = model_config(TOKENS)["frontend_conf"]
    slow = write("slow", 4, frontend_conf=frontend | {"hop_length": 200})
    with pytest.raises(UserError, match="models 1 and 2 make .* frames of the same speech"):
        Recogniser(load_models([two[0], slow]), JOINT)(speech)
    other = write("rate", 5, frontend_conf=frontend | {"fs": 8000})
    with pytest.raises(UserError, match="rate reads audio at 8000 Hz, .*one at 16000 Hz"):
        load_models([two[0], other])


def test_what_one_lacks_all_lack(two, write):
    alone = write("listens", 6, model_conf={"ctc_weight": 1.0})
    with pytest.raises(UserError, match="needs an attention decoder, and this model has none"):
        Recogniser(load_models([two[0], alone]), JOINT)
