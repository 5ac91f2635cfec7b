"""Options and the selection of stages."""

import shlex

import pytest

from espnet_ext.bin.recipe import main
from espnet_ext.errors import UserError
from espnet_ext.recipe.expand import expand, expand_each
from espnet_ext.recipe.fingerprint import paths_of

NASTY = [
    "a b",
    "$(touch evil)",
    "`touch evil`",
    "; touch evil",
    "'",
    '"',
    "\\",
    "*",
    "&& touch evil",
    "ü",
    "--x",
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sice", "3"], "unknown option --sice: did you mean --size?"),
        (["--skip-stage", "3"], "did you mean --skip_stages?"),
        (["--qqq", "3"], "unknown option --qqq (--help lists all options)"),
        (["three"], "'three' is no option"),
        (["--text"], "--text needs a value"),
        (["--text", "--force"], "--text needs a value"),
        (["--nj", "many"], "--nj many: expected a whole number"),
        (["--nj", "0"], "--nj 0: expected a number of at least 1"),
        (["--size=inf"], "--size inf: expected a number"),
        (["--speeds", "0.9 fast"], "expected a number"),
        (["--speeds", "0.9 5"], "--speeds '0.9 5': expected a number from 0.5 to 2"),
        (["--speeds", "1.1 0.9 1.10"], "--speeds '1.1 0.9 1.10': expected every number once"),
        (["--rate", "16q"], "--rate 16q: expected a sample rate in Hz, as in 16000, or in kHz, as in 16k"),
        (["--rate", "0"], "--rate 0: expected a sample rate"),
        (["--config", "conf/b.yaml"], "--config conf/b.yaml: expected a configuration file, but conf/b.yaml"),
        (["--force", "perhaps"], "--force perhaps: expected true or false"),
        (["--method", "telepaty"], "expected one of none, telepathy; did you mean telepathy?"),
        (["--sets", "dev ../../etc"], "names of letters"),
        (["--words", "it's"], "No closing quotation"),
        (["--stage", "tow"], "there is no stage 'tow': did you mean two?"),
        (["--stage", "xyzzy"], "there is no stage 'xyzzy' (--list shows all)"),
        (["--stage", "4"], "there is no stage 4: they go from 1 to 3"),
        (["--skip_stages", "1,thre"], "did you mean three?"),
        (["--skip_stages", "wrong", "--list"], "there is no stage 'wrong' (--list shows all)"),
        (["--stage", "three", "--stop_stage", "1"], "--stage three comes after --stop_stage 1"),
        (["--method", "telepathy"], "offers an entry point 'telepathy' in the group 'espnet_ext.tasks'"),
        (["--cmd_backend", "lsf"], "cmd.sh knows local and slurm"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(recipe, monkeypatch, capsys, options, message):
    before = recipe.files()
    monkeypatch.chdir(recipe.folder)
    assert main(["--template", str(recipe.template), *options]) == 1
    output = capsys.readouterr().err
    assert output.startswith("error: ") and message in output and output.count("\n") == 1, output
    assert recipe.files() == before


def test_both_spellings_flags_and_the_last_one_counts(recipe):
    recipe("--text=first", "--stop-stage", "1", "--text", "a = b", "--force")
    assert (recipe.folder / "data/one.txt").read_text() == "a = b\n"


def test_values_arrive_unharmed(recipe):
    for text in ("\n".join(NASTY), "*"):
        recipe("--stop_stage", "1", f"--text={text}", f"--words={shlex.join(NASTY)}")
        assert (recipe.folder / "data/one.txt").read_text().splitlines() == [*text.split("\n"), *NASTY]
    recipe()
    assert not [name for name in recipe.files() if name.endswith("evil")]
    assert "exp/it's; 3 $(touch evil)" in recipe.files()


def test_folders_with_any_name(recipe):
    names = {name: f"--it's $(touch evil); {name} [x] *" for name in ("datadir", "dumpdir", "expdir")}
    recipe(*[f"--{name}={value}" for name, value in names.items()])
    assert f"{names['expdir']}/3.txt" in recipe.files()
    assert set(recipe.states(*[f"--{n}={v}" for n, v in names.items()]).values()) == {"done"}
    assert "evil" not in recipe.files()


def test_list_and_help(recipe):
    assert recipe("--list").splitlines()[1:] == [
        "1  one    write a text",
        "2  two    copy it",
        "3  three  copy it twice",
    ]
    text = recipe("--help")
    assert (
        "--method none|telepathy (default: none)" in text
        and "--nj N (default: 1)\n      does not count" in text
    )


def test_a_number_has_one_spelling():
    """bash would take 08 for a wrong octal number, and definitions ask for the value 0."""
    from espnet_ext.recipe.options import Option

    whole, real, several = (Option("x", "g", "", kind) for kind in ("int", "float", "floats"))
    assert [whole.check(word) for word in ("08", " 1_000", "+3", "-0")] == ["8", "1000", "3", "0"]
    assert [real.check(word) for word in ("0.0", "-0.0", "0.10", "1e-3", "20")] == [
        "0",
        "0",
        "0.1",
        "0.001",
        "20",
    ]
    assert several.check("0.90 1.0") == "0.90 1.0"  # they become parts of names


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], "123"),
        (["--stage", "two"], "23"),
        (["--stop_stage", "2"], "12"),
        (["--stop_stage", "100"], "123"),
        (["--stage", "2", "--stop_stage", "two"], "2"),
        (["--skip_stages", "one,3"], "2"),
        (["--skip_stages", "two one"], "3"),
    ],
)
def test_selection(recipe, options, names):
    recipe()
    output = recipe("--force", *options)
    assert [n for n in "123" if f" stage {n} " in output] == list(names)


def test_a_corpus_adds_options(recipe):
    definition = "scale: {type: float, default: 1, help: size, stages: [one]}"
    own = f"corpus:\n    title: This corpus\n    options:\n        {definition}\n"
    (recipe.folder / "conf/options.yaml").write_text(own)
    (recipe.folder / "local/one.sh").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "${scale}" >"$1"\n')
    assert "This corpus:\n  --scale X (default: 1)" in recipe("--help")
    recipe("--scale", "0.5", "--stop_stage", "1")
    assert (recipe.folder / "data/one.txt").read_text() == "0.5\n"
    assert recipe.states("--scale", "0.5")["one"] == "done"
    assert "scale was '0.5', is '1'" in recipe.why("one")
    (recipe.folder / "conf/options.yaml").write_text(own + "defaults: {text: 'in ${datadir}'}\n")
    assert "in data" in recipe("--dry_run") and "in other" in recipe("--dry_run", "--datadir", "other")
    (recipe.folder / "conf/options.yaml").write_text("defaults: {txt: x}\n")
    assert "default of txt: no such option; did you mean text?" in recipe("--list", code=1)
    (recipe.folder / "conf/options.yaml").write_text(own.replace("scale", "text"))
    assert "option text is defined already" in recipe("--list", code=1)
    (recipe.folder / "conf/options.yaml").write_text("corpus:\n  title: [\n")
    assert "conf/options.yaml:3: not YAML" in recipe("--list", code=1)
    (recipe.folder / "conf/options.yaml").write_text("defaults: {text: a}\ndefaults: {text: b}\n")
    twice = "conf/options.yaml:2: defaults stands twice in one mapping, first in line 1"
    assert twice in recipe("--list", code=1)


def test_stage_files_are_checked(recipe):
    file = recipe.template / "stages/02_two.sh"
    file.write_text("#!/usr/bin/env bash\n# does: x\n# inptus: [y]\n")
    assert "02_two.sh: its leading comment is no stage header" in recipe("--list", code=1)
    file.rename(file.with_name("03_two.sh"))
    file.with_name("03_two.sh").write_text("#!/usr/bin/env bash\n# does: x\n")
    assert "have the same number" in recipe("--list", code=1)


def test_expansion():
    values = {"a": "1", "none": "", "sets": "x y", "odd": "[*]"}
    assert expand("${a}/${a:+set}${none:+unset}${none:-other}", values) == "1/setother"
    assert expand_each("${sets}/${a}", values, {"sets"}) == ["x/1", "y/1"]
    assert expand_each("p/${none}/q", values, set()) == []
    with pytest.raises(UserError, match="'b', which is neither"):
        expand("${b}", values)


def test_wildcards_are_the_templates_own(tmp_path):
    folder = tmp_path / "[*]"
    folder.mkdir()
    (folder / "x.json").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.json").touch()
    found = paths_of(("${folder}/*.json ?", "${folder}/y"), {"folder": str(folder)}, set())
    assert found == {str(folder / "x.json"): True, str(folder / "y"): False}
