"""A model that stock ESPnet has trained is a model to start from."""

import subprocess
import sys

import pytest
import torch
import yaml

from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.train.init_param import load_state

#: Options of ours that ESPnet does not have.
OURS = ("frames_per_step", "scheduler", "scheduler_conf")


@pytest.fixture(scope="module")
def stock(toy_corpus, tmp_path_factory):
    """The experiment of an epoch with `espnet2.bin.asr_train`."""
    folder = tmp_path_factory.mktemp("stock")
    config = yaml.safe_load((toy_corpus / "train.yaml").read_text())
    for name in OURS:
        del config[name]
    config |= {"max_epoch": 1, "batch_size": 8, "batch_type": "unsorted", "use_matplotlib": False}
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", folder / "train.yaml", "--output_dir", folder / "exp"]
    words += ["--token_list", toy_corpus / "tokens.txt", "--ngpu", "0"]
    for split in ("train", "valid"):
        for file, kind in (("wav.scp", "speech,sound"), ("text", "text,text")):
            words += [f"--{split}_data_path_and_name_and_type", f"{toy_corpus / 'dump' / file},{kind}"]
        for name in ("speech_shape", "text_shape"):
            words += [f"--{split}_shape_file", toy_corpus / "stats" / name]
    command = [sys.executable, "-m", "espnet2.bin.asr_train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "exp"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["1epoch.pth", "valid.acc.ave_1best.pth", "checkpoint.pth"])
def test_a_training_starts_from_it(stock, toy_command, tmp_path, capfd, file):
    """With a rate of 0 the model after an epoch is the one that it started from."""
    words = ["--init_param", str(stock / file), "--max_epoch", "1", "--optim_conf", "lr=0.0"]
    assert ASRTask.main(cmd=toy_command(tmp_path, *words)) == 0
    assert f"{file}: " in (said := capfd.readouterr().out) and " tensors loaded, 0 fresh" in said
    ours = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    theirs = torch.load(stock / "1epoch.pth", weights_only=True)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_of_a_checkpoint_only_the_model_is_taken(tmp_path):
    """ESPnet's; what looks like one and is none is refused."""
    model = {"a": torch.ones(2)}
    torch.save({"model": model, "optimizers": [{}], "reporter": {"epoch": 3}}, tmp_path / "x.pth")
    assert load_state(tmp_path / "x.pth").keys() == model.keys()
    for wrong in ({"model": {"a": 1}, "optimizers": []}, {"model": model}, {"modules": {"model": model}}):
        torch.save(wrong, tmp_path / "x.pth")
        with pytest.raises(UserError, match="expected a dictionary of tensors; give a model"):
            load_state(tmp_path / "x.pth")
