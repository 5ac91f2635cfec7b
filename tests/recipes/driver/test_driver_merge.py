"""Configurations that say only what differs."""

import yaml

from espnet_ext.bin.merge_config import main


def test_merge(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "encoder: e\nencoder_conf: {size: 1, heads: 2}\noptim: adam\noptim_conf: {lr: 1, betas: [0, 1]}\n"
        "scheduler: warm\nscheduler_conf: {steps: 4}\nmax_epoch: 30\n"
    )
    (tmp_path / "b.yaml").write_text(
        "encoder_conf: {heads: 4}\noptim: sgd\noptim_conf: {lr: 2}\nscheduler: none\n"
    )
    assert main(["--out", f"{tmp_path}/c.yaml", f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml"]) == 0
    assert yaml.safe_load((tmp_path / "c.yaml").read_text()) == {
        "encoder": "e",
        "encoder_conf": {"size": 1, "heads": 4},
        "optim": "sgd",
        "optim_conf": {"lr": 2},
        "scheduler": "none",
        "max_epoch": 30,
    }
    (tmp_path / "b.yaml").write_text("- a list\n")
    assert main(["--out", f"{tmp_path}/d.yaml", f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml"]) == 1
    assert "b.yaml: expected `name: value` lines, found list" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text("optim_conf:\n  lr: 1\n\n  lr: 2\n")
    assert main(["--out", f"{tmp_path}/d.yaml", f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml"]) == 1
    assert "b.yaml:4: lr stands twice in one mapping, first in line 2" in capsys.readouterr().err
    assert not (tmp_path / "d.yaml").exists()
