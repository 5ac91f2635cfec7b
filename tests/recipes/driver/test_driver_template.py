"""The template itself: its stage files, its options, its skeleton for new corpora."""

import json
import re
import shlex
import shutil
import subprocess

import pytest

from espnet_ext.bin.recipe import main
from espnet_ext.recipe.expand import names_in
from espnet_ext.recipe.options import load_options
from espnet_ext.recipe.stages import load_stages

NAMES = "data perturb features tokens stats pretrain targets finetune export decode score report pack".split()
#: Variables of utils/stage.sh and cmd.sh.
HELPERS = {
    "template_dir",
    "own",
    "own_trained",
    "teacher_places",
    "lm_args",
    "cpu_cmd",
    "train_cmd",
    "decode_cmd",
    "token_args",
    "input_args",
    "dry_run",
}


@pytest.fixture(scope="module")
def options(real_template):
    return load_options(real_template / "conf/options.yaml")


@pytest.fixture(scope="module")
def stages(real_template):
    return load_stages(real_template / "stages")


@pytest.fixture
def corpus(recipe, real_template):
    """An empty recipe that runs the repository's own template."""
    recipe.template = real_template
    return recipe


def test_the_thirteen_stages(corpus):
    rows = [line.split()[:2] for line in corpus("--list").splitlines()[1:]]
    whole = [row for row in rows if "." not in row[1]]
    assert whole == [[str(number), name] for number, name in enumerate(NAMES, 1)]
    parts = ["export.start", "decode.start", "score.start", "pack.start"]  # the starting model's
    assert [name for _, name in rows if "." in name] == parts


def test_stage_files_declare_what_they_use(stages, options):
    options.parse([])
    for stage in stages:
        code = stage.code()
        assert len(stage.file.read_text().splitlines()) <= 60
        declared = {*stage.options, *stage.uncounted}
        assert declared <= set(options.values), stage
        paths = [*stage.inputs, *stage.outputs, *stage.logs, stage.scope]
        used = set(re.findall(r"\$\{(\w+)", code)) - HELPERS
        own = set(re.findall(r"(?:for (?:\(\()?(\w+)(?: in| ?=)|^\s*(\w+)=)", code, re.M))
        used -= {name for pair in own for name in pair}
        in_paths = {name for path in paths for name in names_in(path)}
        assert used <= declared | in_paths, f"{stage}: {used - declared - in_paths} undeclared"
        assert in_paths <= set(options.values), f"{stage}: {in_paths - set(options.values)}"


def test_who_speaks_is_an_input(stages):
    """Intervals draw speakers: where one is corrected after a run, dumps and scores are made again."""
    inputs = {stage.label: {path.removesuffix(" ?") for path in stage.inputs} for stage in stages}
    for name in ("pretrain_data", "train_data", "valid_set", "test_sets", "unlabelled_set"):
        assert f"${{datadir}}/${{{name}}}/utt2spk" in inputs["features"]
    for stage in ("score", "score.start"):
        assert {"${dump}/${valid_set}/utt2spk", "${dump}/${test_sets}/utt2spk"} <= inputs[stage]


def test_every_command_goes_through_run_or_queue(stages):
    """Else a dry run would do it. `set` and assignments change nothing but the script's own variables."""
    verbs = "run queue run_queue open_queue fresh export_teachers say set mapfile ."
    verbs += " export_models decode_models score_models calibrate_models pack_models"
    grammar = "case esac for do done if fi else continue exit then"
    allowed = {*verbs.split(), *grammar.split()}
    for stage in stages:
        text = re.sub(r"\\\n\s*", "", stage.code())
        for line in text.splitlines():
            line = re.sub(r"^\s*[\w|*]+\) ", "", line)  # the pattern of a branch of `case`
            word = line.split()[0]
            assert word in allowed or re.match(r"[a-z_]+(=|\+=\()", word), line


def test_dry_run_of_a_complete_corpus(corpus):
    output = corpus(
        *["--dry_run", "--pretrain_set", "big", "--train_set", "small", "--test_sets", "clean noisy"],
        *["--unlabelled_set", "more", "--lm_text", "data/t/text", "--speed_perturb_factors", "0.9 1.1"],
        *["--pretrain_args", "--max_epoch 2 --x 'a b'", "--decode_configs", "joint ctc", "--seed", "7"],
        *["--local_data_opts", "--scale 0.1"],
    )
    for expected in (
        "exp/logs/01_data.log local/data.sh --scale 0.1\n",
        "validate_data --stamp data/more\n",
        "perturb_data --in_dir data/small --out_dir data/small_sp --speeds 0.9 1.1 ",
        "make_features --in_dir data/big_sp --out_dir dump/raw/big_sp ",
        "--text dump/raw/big_sp/text dump/raw/small_sp/text data/t/text ",
        "--out_dir exp/stats/raw_unigram200/big_sp ",
        "--seed 7 --resume true --token_type bpe ",
        "--max_epoch 2 --x 'a b'\n",
        "what method none needs beforehand is computed by parts of this stage",
        "--output_dir exp/none_seed7 ",
        "--init_param exp/pretrain_seed7/export/model.pth\n",
        "conf/decode_ctc.yaml --out_dir exp/none_seed7/decode_joint/noisy exp/none_seed7/decode_ctc/noisy ",
        "--model_dir exp/pretrain_seed7/export --data_dir dump/raw/dev --config ",
        "score --ref dump/raw/clean/text --hyp exp/none_seed7/decode_joint/clean/text ",
        "report --expdir exp --out_dir exp/report --dev_sets dev\n",
        "--out exp/none_seed7/export/none_seed7.zip\n",
    ):
        assert expected in output, expected
    assert "--feats_stats true" in output and "--feats_stats false" in output
    assert not (corpus.folder / "exp").exists()


@pytest.mark.parametrize(
    "options, trainings",
    [
        (["--method", "none", "--use_lm", "true"], 3),
        (["--method", "lm_transfer"], 3),
        (["--method", "distillation"], 4),
        (["--pretrain_task", "self_supervised"], 2),
    ],
)
def test_the_job_of_a_training_goes_on(corpus, options, trainings):
    """Slurm runs the same words again after a preemption: they must not start from the beginning."""
    words = ["--dry_run", "--stage", "pretrain", "--stop_stage", "finetune", "--resume", "false", *options]
    output = corpus(*words, "--lm_text", "data/t/text", "--unlabelled_set", "more")
    assert output.count(" --resume true ") == trainings and "--resume false" not in output


def test_dry_run_of_characters_has_no_sentencepiece_model(corpus):
    output = corpus("--dry_run", "--token_type", "char", "--test_sets", "", "--tag", "x")
    assert "data/token_list/char/tokens.txt" in output and "bpe" not in output.split("stage 5")[1]


def test_absent_sets_are_left_out_with_a_message(corpus):
    """Stages 1 and 2 of a corpus without its test set and without untranscribed speech."""
    data = corpus.folder / "local/data.sh"
    data.write_text(
        "#!/usr/bin/env bash\nset -e\n"
        'for set in train dev; do mkdir -p "data/${set}"; echo "a b.wav" >"data/${set}/wav.scp"\n'
        'echo "a hello" >"data/${set}/text"\n'
        'echo "a a" | tee "data/${set}/utt2spk" >"data/${set}/spk2utt"; done\n'
        "touch b.wav\n"
    )
    data.chmod(0o755)
    options = ["--test_sets", "test other", "--unlabelled_set", "more"]
    output = corpus("--stop_stage", "2", *options)
    assert "data/test is not part of this corpus: left out" in output
    assert "data/more is not part of this corpus: left out" in output
    assert "no --speed_perturb_factors: the training sets stay as they are" in output
    assert corpus.states(*options)["perturb"] == "done"


def test_missing_starting_model_is_explained(corpus):
    output = corpus("--stage", "finetune", code=1)
    assert "stage 8 finetune needs" in output and "it is written by stage" in output


@pytest.fixture
def house(tmp_path, real_template, repo_root):
    """A repository with nothing but the template."""
    template = tmp_path / "house/egs2/TEMPLATE/asr1"
    shutil.copytree(real_template, template)
    (tmp_path / "house/tools").symlink_to(repo_root / "tools")
    (tmp_path / "house/espnet_ext").symlink_to(repo_root / "espnet_ext")
    return tmp_path / "house"


def test_setup_starts_a_recipe(house, corpus, repo_root):
    setup = house / "egs2/TEMPLATE/asr1/setup.sh"
    subprocess.run([setup, "new-1.0"], check=True, capture_output=True)
    recipe = house / "egs2/new-1.0/asr1"
    run = [recipe / "run.sh", "--list"]
    listed = subprocess.run(run, env=corpus.environment, check=True, capture_output=True, text=True, cwd="/")
    assert listed.stdout.splitlines()[-1].split()[:2] == ["13", "pack.start"]
    (recipe / "run.sh").write_text("mine\n")
    (recipe / "path.sh").unlink()
    subprocess.run([setup, "new-1.0"], check=True, capture_output=True)
    assert (recipe / "run.sh").read_text() == "mine\n" and (recipe / "path.sh").is_symlink()
    scripts = [recipe / "local/data.sh", *(repo_root / "egs2/TEMPLATE/asr1").glob("*.sh")]
    assert all(
        path.stat().st_mode & 0o100 for path in scripts if path.name in ("data.sh", "asr.sh", "setup.sh")
    )
    for wrong in ([], ["../x"], ["a b"], ["a", "b"]):
        failed = subprocess.run([setup, *wrong], capture_output=True, text=True)
        assert failed.returncode == 1 and "usage" in failed.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck(house, repo_root):
    subprocess.run([house / "egs2/TEMPLATE/asr1/setup.sh", "new"], check=True, capture_output=True)
    shutil.copy(repo_root / "egs2/.shellcheckrc", house / "egs2")
    egs2 = house / "egs2"
    files = [*egs2.rglob("*.sh"), egs2 / "TEMPLATE/asr1/utils/run_local"]
    found = subprocess.run(["shellcheck", *files], capture_output=True, text=True, cwd=egs2)
    assert found.returncode == 0, found.stdout


def test_nothing_is_decoded_twice(corpus):
    """A validation set among the test sets would have two jobs write the same files at the same time."""
    output = corpus("--dry_run", "--stage", "decode", "--test_sets", "dev a a", "--decode_configs", "ctc ctc")
    for line in (r"bin\.decode .*--out_dir (.*) --ngpu", r"bin\.score .*--out_dir (.*)"):
        folders = [folder for each in re.findall(line, output) for folder in each.split()]
        assert len(folders) == len(set(folders)) == 4, folders


def test_options_of_a_training_are_tried_before_other_stages_run(corpus, monkeypatch, capsys):
    monkeypatch.chdir(corpus.folder)
    wrong = ["--method", "mutual_learning", "--finetune_args", "--peers '[{}, {sed: 5}]'"]
    assert main(["--template", str(corpus.template), *wrong]) == 1
    output = capsys.readouterr().err
    message = "error: stage 8 finetune would refuse its options: --peers: peer2: sed: not an option of a peer"
    assert output.startswith(message), output
    assert main(["--template", str(corpus.template), "--pretrain_args", "--max_epochh 1"]) == 1
    message = "error: stage 6 pretrain would refuse its options: unrecognized arguments: --max_epochh"
    assert capsys.readouterr().err.startswith(message)
    assert not (corpus.folder / "exp").exists()
    # Where the training is what comes first, it says so itself.
    assert main(["--template", str(corpus.template), *wrong, "--stage", "finetune"]) == 1
    assert "stage 8 finetune needs " in capsys.readouterr().err


@pytest.mark.parametrize("resume", ["auto", "true"])
def test_options_of_a_training_are_tried_before_a_run_of_it_is_put_aside(
    corpus, monkeypatch, capsys, resume
):
    """A slip on the command line of a restart must not move what has been trained so far."""
    monkeypatch.chdir(corpus.folder)
    record = corpus.folder / "exp/.stages/06_pretrain@pretrain_seed1.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"state": "preempted", "end": "then", "options": {"seed": "1"}}))
    words = ["--stage", "pretrain", "--stop_stage", "pretrain", "--resume", resume]
    assert main(["--template", str(corpus.template), *words, "--pretrain_args", "--max_epochh 1"]) == 1
    message = capsys.readouterr().err
    tried = "stage 6 pretrain would refuse its options: unrecognized arguments: --max_epochh" in message
    assert tried == (resume == "auto"), message


def test_all_trainings_are_tried_in_one_process(corpus, monkeypatch, capsys):
    """What takes seconds is to begin; the message names the training to blame, here the second of three."""
    monkeypatch.chdir(corpus.folder)
    wrong = ["--method", "distillation", "--stage1_args", "--max_epochh 1", "--seed", "3"]
    started, real = [], subprocess.run

    def run(command, **options):
        started.append(command)
        return real(command, **options)

    monkeypatch.setattr("espnet_ext.recipe.early.subprocess.run", run)
    assert main(["--template", str(corpus.template), *wrong]) == 1
    message = "error: stage 8 finetune.distil_encoder would refuse its options: unrecognized arguments: "
    assert capsys.readouterr().err.startswith(f"{message}--max_epochh")
    assert sum("--several" in command for command in started) == 1


def test_ways_to_decode_are_tried_before_other_stages_run(corpus, real_template, monkeypatch, capsys):
    """Else a way that the model does not have, or a slip of its YAML, is found after hours of training."""
    monkeypatch.chdir(corpus.folder)
    mine = corpus.folder / "conf/mine.yaml"
    shutil.copy(
        real_template / "conf/pretrain_transducer.yaml", mine
    )  # under another name: no defaults know it
    (corpus.folder / "conf/decode_slip.yaml").write_text("method: joint\nbeam_sise: 3\n")
    (corpus.folder / "conf/decode_slips.yaml").write_text("method: joint\ntune: {penalty: [.nan]}\n")
    for words, message in (
        (
            ["--pretrain_config", "conf/mine.yaml"],
            "cannot decode the model of conf/mine.yaml, which is a transducer",
        ),
        (["--decode_configs", "ctc transducer"], "method transducer cannot decode the model of"),
        (
            ["--decode_configs", "slip"],
            "conf/decode_slip.yaml: unknown option `beam_sise`; did you mean `beam_size`?",
        ),
        (["--decode_configs", "slips"], "conf/decode_slips.yaml: tune: penalty: expected a finite number"),
        (
            ["--decode_configs", "att joint_lm"],
            "lm_weight 0.3: there is no language model; add --use_lm true",
        ),
        (
            ["--method", "distillation", "--pretrain_config", "conf/pretrain.yaml"],
            "conf/student.yaml, which is a tr",
        ),
    ):
        assert main(["--template", str(corpus.template), *words]) == 1
        output = capsys.readouterr().err
        assert (
            output.startswith("error: stage 10 decode would refuse --decode_configs: ") and message in output
        )
    assert not (corpus.folder / "exp").exists()


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("distillation_encoder", ["--distillation_conf", "cosine=-1"], "cosine -1: expected 0 or more"),
        ("distillation_encoder", ["--max_epochh", "1"], "did you mean --max_epoch?"),
        ("distillation", ["--distillation_conf", "temperature=0"], "temperature 0: expected above 0"),
        ("distillation", ["--streaming_chunk", "-1"], "--streaming_chunk -1: expected 0"),
        ("distillation_encoder", [], ""),
        ("distillation", ["--distillation_conf", "path_weight=1"], ""),
        ("ssl", [], ""),
        ("ssl", ["--max_epochh", "1"], "did you mean --max_epoch?"),
        ("distillation", ["--joint_network_conf", "joint_sise=1"], "did you mean joint_space_size?"),
        ("distillation_encoder", ["--decoder_conf", "hiden_size=1"], "RNNDecoder has no option"),
        ("ssl", ["--encoder_conf", "drop=1"], "encoder_conf: EBranchformerEncoder has no option"),
    ],
)
def test_trainings_of_distillation_are_tried_early(stages, real_template, capsys, task, words, message):
    from espnet_ext.bin import check_training

    tried = [stage for stage in stages if stage.training and (stage.task or stage.part) == task]
    assert len(tried) == 1
    model = "pretrain" if task == "ssl" else "student"
    configs = [str(real_template / f"conf/{model}.yaml")]
    if task == "ssl":
        configs.append(str(real_template / "conf/distil_bestrq.yaml"))
    code = check_training.main(["--task", task, "--seed", "1", *configs, "--start", "exp/x", "--", *words])
    output = capsys.readouterr().err
    assert (code, message in output) == (int(bool(message)), True), output


@pytest.mark.parametrize(
    "mistake",
    [
        ("--fs", "16kHz", "a sample rate"),
        ("--speed_perturb_factors", "0.9 9", "a number from 0.25 to 4"),
        ("--speed_perturb_factors", "1.1 1.1", "every number once"),
        ("--max_drop_fraction", "5", "a number from 0 to 1"),
        ("--pretrain_config", "conf/pretain.yaml", "a configuration file"),
        ("--decode_configs", "joint atx", "a configuration file, but conf/decode_atx.yaml"),
    ],
)
def test_wrong_values_are_refused_before_any_stage_runs(corpus, monkeypatch, capsys, mistake):
    name, value, expected = mistake
    monkeypatch.chdir(corpus.folder)
    assert main(["--template", str(corpus.template), name, value]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"error: {name} {shlex.quote(value)}: expected {expected}"), output
    assert not (corpus.folder / "exp").exists()
