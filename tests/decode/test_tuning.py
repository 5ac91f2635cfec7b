"""`bin.tune_decoding`: what it chooses, what it writes, and what it refuses."""

import json

import pytest
import torch
import yaml

from espnet_ext.bin.decode import main as decode
from espnet_ext.bin.tune_decoding import main as tune
from espnet_ext.decode.options import read_grid, read_options
from espnet_ext.errors import UserError

GRID = {"method": "joint", "beam_size": 3}
LISTS = {"ctc_weight": [0.3, 0.9], "penalty": [0, 6.0]}


def write(path, content):
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def dev(dumped, exported, tmp_path):
    """The dumped set, whose transcripts are what one way to decode recognises, but for an empty one."""

    def make(**options):
        config = write(tmp_path / "truth.yaml", {**GRID, **options})
        words = [
            "--model_dir",
            exported,
            "--data_dir",
            dumped,
            "--config",
            config,
            "--out_dir",
            tmp_path / "truth",
        ]
        assert decode([*map(str, words)]) == 0
        folder = tmp_path / "dev"
        folder.mkdir(exist_ok=True)
        for name in ("wav.scp", "utt2num_samples"):
            (folder / name).write_bytes((dumped / name).read_bytes())
        (folder / "text").write_bytes((tmp_path / "truth" / "text").read_bytes())
        return folder

    return make


@pytest.fixture
def run(exported, tmp_path, capsys):
    """A function that tunes on a set: exit status and what was printed."""

    def call(folder, content=None, *more):
        config = write(tmp_path / "decode_tuned.yaml", content or {**GRID, "tune": LISTS})
        paths = {
            "--model_dir": exported,
            "--data_dir": folder,
            "--config": config,
            "--out": tmp_path / "t" / "tuned.yaml",
        }
        status = tune([*(str(word) for pair in paths.items() for word in pair), *map(str, more)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.mark.parametrize("truth", [{"ctc_weight": 0.3, "penalty": 6.0}, {"ctc_weight": 0.9, "penalty": 0.0}])
def test_the_way_that_made_the_transcripts_is_chosen(dev, run, tmp_path, exported, dumped, truth):
    status, printed = run(dev(**truth))
    assert status == 0, printed
    record = json.loads((tmp_path / "t/tuned.json").read_text())
    assert record["chosen"] == truth
    assert len(record["grid"]) == 4 and [each["wer"] for each in record["grid"]].count(0.0) == 1
    assert [(each["ctc_weight"], each["penalty"]) for each in record["grid"]] == [
        (0.3, 0),
        (0.3, 6),
        (0.9, 0),
        (0.9, 6),
    ]
    assert record["edges"] == ["ctc_weight", "penalty"] and "edge" in printed
    # What it writes is a configuration for decode, which finds the same words with it.
    chosen = read_options(tmp_path / "t/tuned.yaml")
    assert (chosen.ctc_weight, chosen.penalty, chosen.beam_size) == (truth["ctc_weight"], truth["penalty"], 3)
    words = [
        "--model_dir",
        exported,
        "--data_dir",
        dumped,
        "--config",
        tmp_path / "t/tuned.yaml",
        "--out_dir",
        tmp_path / "o",
    ]
    assert decode([*map(str, words)]) == 0
    assert (tmp_path / "o/text").read_bytes() == (tmp_path / "truth/text").read_bytes()


def test_each_points_errors_are_those_of_decoding_alone(dev, run, tmp_path, exported, dumped):
    from espnet_ext.bin.score import main as score

    folder = dev(ctc_weight=0.5)
    assert run(folder)[0] == 0
    for number, point in enumerate(json.loads((tmp_path / "t/tuned.json").read_text())["grid"]):
        out = tmp_path / f"alone{number}"
        config = write(tmp_path / "one.yaml", {**GRID, **{name: point[name] for name in LISTS}})
        words = ["--model_dir", exported, "--data_dir", dumped, "--config", config, "--out_dir", out]
        assert decode([*map(str, words)]) == 0
        assert score(["--ref", f"{folder}/text", "--hyp", f"{out}/text", "--out_dir", str(out)]) == 0
        result = json.loads((out / "result.json").read_text())
        assert (result["wer"], result["cer"]) == (point["wer"], point["cer"])


def test_nothing_is_tuned_again_until_something_changes(dev, run, tmp_path):
    folder = dev(ctc_weight=0.1, penalty=0.0)
    assert "chosen before" not in run(folder)[1]
    assert "chosen before" in run(folder)[1]
    changed = {**GRID, "tune": {"ctc_weight": [0.1, 0.9]}}
    assert "chosen before" not in run(folder, changed)[1]
    lines = (folder / "text").read_text().splitlines()
    (folder / "text").write_text("\n".join([lines[0] + " more", *lines[1:]]) + "\n")
    assert "chosen before" not in run(folder, changed)[1]
    (tmp_path / "t/tuned.yaml").unlink()
    assert "chosen before" not in run(folder, changed)[1]


def test_a_set_without_transcripts_is_refused(dev, run, tmp_path):
    folder = dev()
    lines = (folder / "text").read_text().splitlines()
    (folder / "text").write_text("\n".join(lines[1:]) + "\n")
    status, printed = run(folder)
    assert status == 1 and "no transcript of" in printed and not (tmp_path / "t/tuned.yaml").exists()
    (folder / "text").write_text("".join(f"{line.split()[0]}\n" for line in lines))
    status, printed = run(folder)
    assert status == 1 and "hold no words" in printed


@pytest.mark.parametrize(
    "content, message",
    [
        ({**GRID}, "expected lists of values"),
        ({**GRID, "tune": {}}, "expected lists of values"),
        (
            {**GRID, "tune": {"beam_size": [1, 2]}},
            "beam_size: expected one of ctc_weight, lm_weight, penalty",
        ),
        ({**GRID, "ctc_weight": 0.3, "tune": {"ctc_weight": [0.1]}}, "a value and a list"),
        ({**GRID, "tune": {"ctc_weight": 0.3}}, "expected a list of numbers"),
        ({**GRID, "tune": {"ctc_weight": []}}, "expected a list of numbers"),
        ({**GRID, "tune": {"ctc_weight": [1.3]}}, "from 0 to 1"),
        ({**GRID, "tune": {"penalty": ["a"]}}, "expected float"),
        ({**GRID, "tune": {"lm_weight": [-1]}}, "at least 0"),
        ({"method": "ctc_greedy", "tune": {"penalty": [0]}}, "does not read `penalty`"),
    ],
)
def test_bad_lists_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_grid(write(tmp_path / "grid.yaml", content))


def test_lists_are_not_decoded_with(tmp_path):
    with pytest.raises(UserError, match="tune_decoding"):
        read_options(write(tmp_path / "grid.yaml", {**GRID, "tune": LISTS}))


def test_a_weight_without_a_language_model_is_refused(dev, run):
    status, printed = run(dev(), {**GRID, "tune": {"lm_weight": [0.0, 0.3]}})
    assert status == 1 and "--lm_dir" in printed and "--use_lm true" in printed


def test_a_language_model_is_weighed(dev, run, tmp_path, exported):
    """Transcripts of one letter, and a language model that says nothing else: it helps."""
    from espnet2.lm.espnet_model import ESPnetLanguageModel
    from espnet2.lm.seq_rnn_lm import SequentialRNNLM

    tokens = yaml.safe_load((exported / "config.yaml").read_text())["token_list"]
    folder = dev()
    names = [line.split()[0] for line in (folder / "text").read_text().splitlines()]
    (folder / "text").write_text("".join(f"{name} aaaaaaaa\n" for name in names))
    lm = ESPnetLanguageModel(SequentialRNNLM(len(tokens), 4, nlayers=1), len(tokens))
    with torch.no_grad():
        lm.lm.decoder.weight.zero_()
        lm.lm.decoder.bias.zero_()
        lm.lm.decoder.bias[tokens.index("a")] = 20.0
    lm_dir = tmp_path / "lm"
    lm_dir.mkdir()
    torch.save(lm.state_dict(), lm_dir / "model.pth")
    about = {"lm": "seq_rnn", "lm_conf": {"unit": 4, "nlayers": 1}, "token_list": tokens}
    write(lm_dir / "config.yaml", about)
    lists = {**GRID, "tune": {"lm_weight": [0, 2], "ctc_weight": [0.0]}}
    status, printed = run(folder, lists, "--lm_dir", lm_dir)
    assert status == 0, printed
    record = json.loads((tmp_path / "t/tuned.json").read_text())
    assert record["chosen"]["lm_weight"] == 2 and record["grid"][0]["cer"] > record["grid"][1]["cer"]
    # decode.json names the language model; one with other tokens is refused.
    out = tmp_path / "out"
    words = [
        "--data_dir",
        folder,
        "--config",
        tmp_path / "t/tuned.yaml",
        "--out_dir",
        out,
        "--lm_dir",
        lm_dir,
    ]
    assert decode(["--model_dir", str(exported), *map(str, words)]) == 0
    summary = json.loads((out / "decode.json").read_text())
    assert (
        summary["lm_dir"] == str(lm_dir)
        and len(summary["lm_sha256"]) == 64
        and "--lm_dir" in summary["command"]
    )
    write(lm_dir / "config.yaml", {**about, "token_list": tokens[::-1]})
    assert decode(["--model_dir", str(exported), *map(str, words)]) == 1
