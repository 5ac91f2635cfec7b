"""A large and a compact peer in one run, as the page shows it: trained, exported, decoded and scored."""

import json
import re
import shutil

import pytest
import torch
import yaml

from espnet_ext.bin import decode, score
from espnet_ext.mutual_learning.peers import parse_peers
from espnet_ext.mutual_learning.task import MutualLearningTask
from espnet_ext.train.export import export
from tests.mutual_learning.conftest import options


@pytest.fixture
def dump(toy_corpus, tmp_path):
    """The toy corpus as stage 3 leaves it."""
    shutil.copytree(toy_corpus / "dump", tmp_path / "dump")
    shutil.copy(toy_corpus / "stats/speech_shape", tmp_path / "dump/utt2num_samples")
    return tmp_path / "dump"


def test_large_and_compact_peer_in_one_run(mutual, toy_cmd, dump, repo_root, tmp_path, capfd):
    page = (repo_root / "docs/mutual_learning.md").read_text(encoding="utf-8")
    (peers,) = re.findall(r"""--finetune_args "--peers '(\[\{\}.*?\])'""", page)
    compact = yaml.safe_load(peers)[1]
    start = next((mutual / "peer1").glob("*epoch.pth"))  # which fits the first one alone
    cmd = toy_cmd(tmp_path / "exp", "--peers", peers, "--init_param", str(start), "--max_epoch", "1")
    assert MutualLearningTask.main(cmd=cmd) == 0
    summary = json.loads((tmp_path / "exp/train_summary.json").read_text())["peers"]
    assert summary["peer1"]["parameters"] != summary["peer2"]["parameters"]
    ways = {"ctc": {"method": "ctc_greedy"}, "att": {"method": "attention_greedy", "maxlenratio": -8}}
    for name, way in ways.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(way))
    sizes = (options()["encoder_conf"]["output_size"], compact["encoder_conf"]["output_size"])
    for peer, size in zip(("peer1", "peer2"), sizes, strict=True):
        folder = tmp_path / "exp" / peer
        export(folder, folder / "export", nbest=1)
        config = yaml.safe_load((folder / "export/config.yaml").read_text())
        assert config["encoder_conf"]["output_size"] == size
        words = ["--model_dir", folder / "export", "--data_dir", dump]
        words += ["--config", *(tmp_path / f"{name}.yaml" for name in ways)]
        assert decode.main([*map(str, words), "--out_dir", *(str(folder / name) for name in ways)]) == 0
        for name in ways:
            words = [
                "--ref",
                dump / "text",
                "--hyp",
                folder / name / "text",
                "--out_dir",
                folder / name / "score",
            ]
            assert score.main([*map(str, words)]) == 0
            scored = json.loads((folder / name / "score/result.json").read_text())
            assert scored["sentences"] == 12


def test_first_peer_may_be_the_other_one(toy_cmd):
    """Without options of its own it is the training's model, which is built already."""
    parser, device, common = MutualLearningTask.get_parser(), torch.device("cpu"), object()
    alike = parser.parse_args(toy_cmd("exp"))
    assert MutualLearningTask._model(parse_peers(alike)[0], alike, common, device) is common
    args = parser.parse_args(toy_cmd("exp", "--peers", "[{encoder_conf: {output_size: 24}}, {}]"))
    own = MutualLearningTask._model(parse_peers(args)[0], args, common, device)
    assert own.encoder.output_size() == 24
