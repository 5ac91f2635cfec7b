"""What stands in the experiment's folder: the peer with the best epoch, its parameters and its options."""

import csv
import json
import shutil

import pytest
import yaml

from espnet_ext.mutual_learning.best import _best_values, present_best


@pytest.mark.parametrize("best", ["peer1", "peer2"])
def test_whichever_peer_was_best_stands_in_the_folder(mutual, tmp_path, best):
    folder = tmp_path / "exp"
    shutil.copytree(mutual, folder)
    with open(folder / "history.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    # Its best epoch is the first one; at the end the other one is ahead.
    values = {"peer1": [0.6, 0.7], "peer2": [0.6, 0.7]} | {best: [0.9, 0.5]}
    for name, each in values.items():
        for row, value in zip(rows, each, strict=True):
            row[f"valid_acc_{name}"] = str(value)
    with open(folder / "history.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert present_best(folder, ["peer1", "peer2"], ("valid", "acc", "max")) == best
    kept = [path.name for path in folder.glob("*epoch.pth")]
    assert kept and sorted(kept) == sorted(path.name for path in (folder / best).glob("*epoch.pth"))
    assert all((folder / name).read_bytes() == (mutual / best / name).read_bytes() for name in kept)
    assert (folder / "nbest.json").read_text() == (mutual / best / "nbest.json").read_text()
    sizes = {"peer1": 16, "peer2": 24}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["encoder_conf"]["output_size"] == sizes[best]
    summary = json.loads((folder / "train_summary.json").read_text())
    assert summary["best_peer"] == best and summary["peers"][best]["best_value"] == 0.9


@pytest.mark.parametrize("mode, best", [("max", 0.5), ("min", 0.25)])
def test_an_epoch_without_a_number_is_nobodys_best(tmp_path, mode, best):
    """Wherever it stands; a peer that has no other is behind every other peer."""
    path = tmp_path / "history.csv"
    path.write_text("epoch,valid_acc_a,valid_acc_b\n1,nan,nan\n2,0.5,nan\n3,0.25,nan\n4,nan,nan\n")
    values = _best_values(path, ["a", "b"], ("valid", "acc", mode))
    assert values == {"a": best, "b": float("-inf" if mode == "max" else "inf")}
