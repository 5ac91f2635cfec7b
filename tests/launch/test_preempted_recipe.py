"""A recipe and a small matrix on this machine, interrupted again and again; as tests/slurm on a cluster."""

import json
import re
import shlex

import pytest

from tests.recipes.conftest import run_recipe, tiny_options  # noqa: F401  fixtures
from tests.recipes.third_corpus.test_third_corpus import recipe, recording  # noqa: F401  fixtures
from tests.train.test_survival import assert_same_end

MATRIX = """\
systems: [none]
seeds: [1]
sweep: {none: {one: --max_epoch 8, two: --max_epoch 9}}
choose: {decoding: ctc, figure: cer}
gpu_hours: 2
"""


@pytest.mark.slow
def test_recipe_and_matrix(recipe, recording, run_recipe, tiny_options, monkeypatch):  # noqa: F811
    """From awkward names and paths to a chosen point; each training is interrupted twice.

    After a checkpoint it is told to save, after another it is killed. The starting model ends as one that was
    left alone.
    """
    monkeypatch.setenv("ESPNET_EXT_PREEMPT", "save USR1 KILL")
    # Epochs enough that a training has not ended before it has been seen that it saved.
    own = [*tiny_options, "--local_data_opts", shlex.quote(str(recording)), "--max_drop_fraction", "0.5"]
    own += ["--pretrain_args", "--max_epoch 12"]
    matrix = ["--matrix", "conf/matrix.yaml"]
    (recipe / "conf/matrix.yaml").write_text(MATRIX)

    def run(*words):
        return run_recipe(recipe / "run.sh", *own, *words)

    assert "0 of 2 rows are done (2 to do)" in run(*matrix, "--status")
    printed = run(*matrix)
    facts = json.loads((recipe / "exp/report/matrix.json").read_text())
    rows = {row["experiment"]: row for row in facts["rows"]}
    assert set(rows) == {"none_one_seed1", "none_two_seed1"}, printed
    assert {row["state"] for row in rows.values()} == {"done"}
    chosen = re.search(r"(none_\w+) was chosen on check-up", printed)[1]
    for name, row in rows.items():
        assert list(row["test"]) == (["final.1"] if name == f"{chosen}_seed1" else [])
    assert not list(recipe.rglob("evil*"))
    for name in ("pretrain_seed1", *rows):
        log = (recipe / "exp" / name / "train.log").read_text()
        assert log.count("# Started at") == 3 and log.count("# Ended (code 0)") == 1, log
        assert log.count("saved at step") == 1
        # Each run but the first goes on from the checkpoint of the one before.
        assert log.count("resumed at epoch") == 2, log
    # What exists is not run again.
    again = run(*matrix)
    assert "==" not in again and "was chosen" not in again
    monkeypatch.delenv("ESPNET_EXT_PREEMPT")
    run("--stage", "stats", "--stop_stage", "pretrain", "--expdir", "alone")
    assert (recipe / "alone/pretrain_seed1/train.log").read_text().count("# Started at") == 1
    assert_same_end(recipe / "exp/pretrain_seed1", recipe / "alone/pretrain_seed1")
