"""The starting model is exported, decoded and scored once, whichever system on it comes first."""

import sys

import pytest

from espnet_ext.recipe.driver import Driver
from espnet_ext.recipe.matrix import Matrix

#: In the back end's place: no logs, one job after the other.
DIRECT = """\
#!/usr/bin/env bash
set -e
while [[ $1 == --* ]]; do shift 2; done
first=1 last=1
if [[ $1 =~ ^JOB=([0-9]+):([0-9]+)$ ]]; then first=${BASH_REMATCH[1]} last=${BASH_REMATCH[2]}; shift; fi
shift
for ((job = first; job <= last; job++)); do "${@//JOB/${job}}"; done
"""
#: In the place of Python: what stages 9 to 13 call writes what they expect, and tells it to the file `calls`.
PYTHON = """\
#!/usr/bin/env bash
set -e
name=${2##*.}
case ${name} in
    run_row) mapfile -d '' -t words <"$3" && exec "${words[@]}" ;;
    export_model) out=/model.pth ;;
    decode) out=/text ;;
    score) out=/result.json ;;
    calibration) out=/dev.json ;;
    pack) out= ;;
    *) exec REAL "$@" ;;
esac
echo "${name} ${*:3}" >>calls
while [[ $1 != --out* ]]; do shift; done
shift
while [ $# != 0 ] && [[ $1 != --* ]]; do
    mkdir -p "$(dirname "$1${out}")" && echo "${name}" >"$1${out}"
    shift
done
"""


@pytest.fixture
def corpus(recipe, real_template):
    """The repository's own stages on a corpus that is trained, with commands that take no time."""
    folder = recipe.folder
    recipe.template = real_template
    for name, text in (("direct", DIRECT), ("bin/python", PYTHON.replace("REAL", f"'{sys.executable}'"))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    recipe.environment["PATH"] = f"{folder / 'bin'}:{recipe.environment['PATH']}"
    ends = " ".join(f'{name}_cmd="${{PWD}}/direct"' for name in ("train", "cpu", "decode"))
    (folder / "cmd.sh").write_text(f"{ends}\n")
    for name in ("dev", "test"):
        (folder / f"dump/raw/{name}").mkdir(parents=True)
        (folder / f"dump/raw/{name}/text").write_text("u a\n")
    for name in ("pretrain_seed1", "none_seed1", "gan_seed1"):
        (folder / f"exp/{name}").mkdir(parents=True)
        (folder / f"exp/{name}/train_summary.json").write_text("{}\n")

    def run(*words: str, stop: str = "score") -> list[str]:
        """Run stages 9 to 11; returns what they called, with the experiment it was for."""
        (folder / "calls").write_text("")
        recipe("--stage", "export", "--stop_stage", stop, *words)
        lines = [line.split() for line in (folder / "calls").read_text().splitlines()]
        return [f"{words[0]} {_experiment(words)}" for words in lines]

    run.recipe = recipe
    return run


def _experiment(words: list[str]) -> str:
    out = next(words[at + 1] for at, word in enumerate(words) if word.startswith("--out"))
    return out.split("/")[1]


STARTS = ["export_model pretrain_seed1", "decode pretrain_seed1", "score pretrain_seed1"]


def test_a_second_system_on_the_same_starting_model_does_not_decode_it_again(corpus):
    first = corpus("--system", "none")
    assert [first.count(call) for call in STARTS] == [1, 2, 6]  # two sets, in three ways
    assert first.count("decode none_seed1") == 2
    second = corpus("--system", "gan")
    assert second.count("decode gan_seed1") == 2 and not any("pretrain" in call for call in second)
    assert corpus("--system", "none") == corpus("--system", "gan") == []
    # What decides about its results counts.
    assert corpus("--system", "gan", "--decode_configs", "ctc").count("decode pretrain_seed1") == 2
    assert corpus("--system", "gan", "--decode_configs", "ctc", "--test_sets=").count(STARTS[1]) == 1


def test_force_and_models(corpus):
    """--force runs all that was asked for again; --models says of what."""
    calls = corpus("--system", "gan", "--models", "start", stop="pack")
    assert set(calls) == {*STARTS, "pack pretrain_seed1"}
    forced = corpus("--system", "gan", "--force")
    assert [forced.count(call) for call in STARTS] == [1, 2, 6] and forced.count("decode gan_seed1") == 2
    forced = corpus("--system", "gan", "--models", "own", "--force")
    assert forced.count("decode gan_seed1") == 2 and not any("pretrain" in call for call in forced)


def test_calibration_is_a_part_of_its_own(corpus):
    corpus("--system", "none")
    assert corpus("--system", "none", "--calibration", "true") == [
        "calibration none_seed1",
        "calibration pretrain_seed1",
    ]


def test_models_that_decode_together_stand_on_no_starting_model(corpus):
    corpus("--system", "none", "--models", "own", stop="export")
    calls = corpus("--tag", "both", "--ensemble", "none_seed1", "--decode_configs", "att")
    assert calls == ["decode none_both"] * 2 + ["score none_both"] * 2


def test_a_model_that_is_not_trained_is_an_error(corpus):
    (corpus.recipe.folder / "exp/gan_seed1/train_summary.json").unlink()
    failed = corpus.recipe("--stage", "export", "--system", "gan", code=1)
    assert "stage 9 export needs exp/gan_seed1/train_summary.json" in failed and "stage 8" in failed


MATRIX = """\
systems: [none, gan, mutual_learning]
seeds: [1, 2]
sweep: {gan: {a: --x 1, b: --x 2}}
"""


def test_a_matrix_does_it_once_before_its_rows(corpus, monkeypatch):
    """With test sets, which points of a sweep have not; with calibration, which one of the rows asks for."""
    recipe = corpus.recipe
    (recipe.folder / "matrix.yaml").write_text(MATRIX)
    monkeypatch.chdir(recipe.folder)
    driver = Driver(recipe.template, ["--matrix", "matrix.yaml", "--force"])
    driver.parse()
    matrix = Matrix(driver)
    starts = matrix.start_steps()
    assert [step.name for step in starts] == ["start@seed1", "start@seed2"]
    names = ["export.start", "decode.start", "score.start", "score.start_calibration"]
    for step in starts:
        assert [state.stage.label for state in step.states] == names
        assert all(state.values["test_sets"] == "test" for state in step.states)
        assert step.arguments[step.arguments.index("--models") + 1] == "start"
    files = {state.file for step in starts for state in step.states}
    for row in matrix.plan.rows:
        step = matrix.row_step(row)
        assert step.arguments[step.arguments.index("--models") + 1] == "own"
        assert not files & {state.file for state in step.states}
    # It is done, for the matrix too, if a run outside has done it.
    corpus("--system", "mutual_learning", "--models", "start")
    assert [step.done() for step in matrix.start_steps()] == [True, False]
