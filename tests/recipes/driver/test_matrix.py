"""What a matrix file asks for, and how its best point is chosen."""

import json
from types import SimpleNamespace

import pytest

from espnet_ext.errors import UserError
from espnet_ext.recipe.grid import Grid
from espnet_ext.recipe.plan import read_plan
from espnet_ext.recipe.state import DONE
from espnet_ext.recipe.systems import load_systems
from espnet_ext.recipe.usage import Usage, hours, usage_file

CONTROLS = """
systems:
    gan: {what: a critic}
    gan_big: {what: a larger one, needs: [gan]}
controls:
    gan_off: {what: no critic, options: {finetune_args: --x 0}, matched: [steps]}
    none: {what: plain, options: {method: none}, matched: [labelled_batches]}
"""


@pytest.fixture
def plan(tmp_path):
    """Function: text of a file → plan."""
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan/controls.yaml").write_text(CONTROLS)
    systems = load_systems([tmp_path / "gan/controls.yaml"])

    def plan(text):
        (tmp_path / "matrix.yaml").write_text(text)
        return read_plan(tmp_path / "matrix.yaml", systems)

    return plan


def names(rows) -> list[str]:
    return [row.name for row in rows]


def test_methods_controls_and_seeds(plan):
    """What a system needs is a row as well, and comes before it."""
    found = plan("methods: [gan]\ncontrols: true\nseeds: [1, 2]\n")
    systems = {"gan", "gan_big", "gan_off", "none"}
    assert set(names(found.rows)) == {f"{name}_seed{seed}" for name in systems for seed in (1, 2)}
    assert names(found.levels[1]) == ["gan_big_seed1", "gan_big_seed2"] and len(found.levels) == 2
    assert names(plan("systems: [gan_big]").rows) == ["gan_seed1", "gan_big_seed1"]
    assert not plan("methods: [gan]").levels[0][0].dev_only


def test_a_sweep_decodes_the_development_set_alone(plan):
    text = "systems: [none, gan]\nsweep: {gan: {a: --l 1, b: --l 2}}\noptions: {nbpe: 99, streaming: true}\n"
    found = plan(text)
    assert names(found.rows) == ["none_seed1", "gan_a_seed1", "gan_b_seed1"]
    row = found.rows[2]
    assert row.arguments[-3:] == ("b", "--finetune_args=--l 2", "--test_sets=") and row.dev_only
    assert "--test_sets=" not in row.whole and "--test_sets=" not in found.rows[0].arguments
    assert found.options == ["--nbpe=99", "--streaming=true"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [gan]", "method: expected choose, controls"),
        ("systems: [gna]", "did you mean gan"),
        ("methods: [telepathy]", "methods: telepathy: no controls.yaml"),
        ("seeds: [1]", "no rows"),
        ("systems: [gan]\nseeds: 3", "seeds: expected whole numbers"),
        ("systems: [gan]\nsweep: {none: {a: x}}", "sweep: none: not one of this matrix's systems"),
        ("systems: [gan]\nsweep: {gan: []}", "sweep: gan: expected `point: arguments"),
        ("systems: [gan]\nchoose: {figure: bleu}", "choose: expected decoding and figure"),
    ],
)
def test_mistakes(plan, text, message):
    with pytest.raises(UserError, match=message):
        plan(text)


def test_the_choice_is_by_the_mean_on_dev_and_says_if_points_are_missing(plan, monkeypatch):
    """A point with fewer seeds than another is not compared with it."""
    found = plan("systems: [gan]\nseeds: [1, 2]\nsweep: {gan: {a: x, b: x, c: x}}")
    scores = {"gan_a_seed1": 20.0, "gan_a_seed2": 10.0, "gan_b_seed1": 14.0, "gan_b_seed2": 15.0}
    scores["gan_c_seed1"] = 5.0
    matrix = SimpleNamespace(
        plan=found,
        driver=SimpleNamespace(values={"valid_set": "dev"}),
        score=lambda row, data: scores.get(row.name) if data == "dev" else pytest.fail("test set"),
    )
    monkeypatch.setattr(Grid, "state", lambda self, row: DONE if row.name in scores else "to do")
    (choice,) = Grid(matrix).choices()
    assert (choice.label, choice.mean, choice.seeds, choice.complete) == ("gan_b", 14.5, 2, False)
    scores["gan_c_seed2"] = 7.0
    (choice,) = Grid(matrix).choices()
    assert (choice.label, choice.complete) == ("gan_c", True)


@pytest.mark.parametrize(
    ("decoding", "training", "decoded"),
    [
        ("done", "done", True),
        ("stale", "done", False),
        ("stale", "stale", True),
        ("stale", "no score", False),
    ],
)
def test_test_sets_are_decoded_again_after_a_change(plan, decoding, training, decoded):
    """Else a chosen point is reported with test scores of other decoding options than those on dev."""
    found = plan("systems: [gan]\nsweep: {gan: {a: x, b: x}}")
    row = found.rows[0]
    status = SimpleNamespace(status=lambda: SimpleNamespace(state=decoding))
    driver = SimpleNamespace(stages=lambda: [SimpleNamespace(number=10)], state_of=lambda stage: status)
    matrix = SimpleNamespace(
        plan=found,
        driver=SimpleNamespace(values={"valid_set": "dev", "test_sets": "dev test"}),
        score=lambda row, data: None if training == "no score" else 10.0,
        changed=lambda: [(row, "options")] if training == "stale" else [],
        whole_drivers={row.name: driver},
    )
    assert Grid(matrix)._is_tested(row) is decoded


def test_hours(tmp_path):
    """A run that was killed leaves its begin alone: how long it was is not known, and told."""
    with Usage(tmp_path, "x", 2):
        pass
    file = usage_file(tmp_path, "x")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["end"] = lines[1]["begin"] + 7200
    lines.append({"begin": 5.0, "gpus": 2})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert hours(file) == (2.0, 4.0, 1)
    assert hours(tmp_path / "none") == (0.0, 0.0, 0)
