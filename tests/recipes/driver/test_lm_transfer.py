"""Stages of `--method lm_transfer`: which language model teaches what, and where it is found again."""

import pytest

from espnet_ext.errors import UserError
from espnet_ext.recipe.driver import Driver


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--method", "lm_transfer"], "stats.lm_transfer"), (["--use_lm", "true"], "stats.lm")],
)
def test_sentences_are_looked_for_before_stage_6(recipe, real_template, monkeypatch, words, part):
    """A corpus of one's own has none: it was told when hours of stage 6 were over."""
    monkeypatch.chdir(recipe.folder)
    (recipe.folder / "data/token_list/unigram200").mkdir(parents=True)
    (recipe.folder / "data/token_list/unigram200/tokens.txt").write_text("<blank>\n")
    recipe.template = real_template
    output = recipe(*words, "--stage", "stats", "--dry_run", code=1)
    assert "--lm_text FILE" in output and "# stage 6" not in output
    driver = Driver(real_template, [*words, "--lm_text", "data/text_only/text"])
    driver.parse()
    stages = driver.stages()
    labels = [stage.label for stage in stages]
    assert labels.index(part) < labels.index("pretrain")
    state = driver.state_of(stages[labels.index(part)])
    message = "needs data/text_only/text, which does not exist; --lm_text names it: sentences without audio"
    with pytest.raises(UserError, match=message):
        driver._check_inputs(state, stages)


def test_transducer_with_the_recipes_own_language_model(recipe, real_template):
    recipe.template = real_template
    words = ["--system", "lm_transfer_transducer", "--stage", "stats", "--stop_stage", "decode", "--dry_run"]
    output = recipe(*words, "--lm_text", "data/t/text", "--ngpu", "2")
    for expected in (
        "--out_dir exp/stats/raw_unigram200_transducer/train ",
        "--output_dir exp/pretrain_transducer_seed1 ",
        "lm_targets --check --teacher exp/masked_lm_unigram200 --layers last --case lower ",
        "conf/train_masked_lm.yaml\n",
        "run_local --gpu 1 exp/masked_lm_unigram200/train.log python -m espnet_ext.bin.lm_train ",
        "lm_targets --teacher exp/masked_lm_unigram200 --layers last --case lower ",
        "--text dump/raw/train/text --other_text dump/raw/dev/text --ngpu 1 --dry_run\n",
        "asr_train --task lm_transfer --config exp/lm_transfer_transducer_seed1/train.yaml ",
        "--init_param exp/pretrain_transducer_seed1/export/model.pth ",
        "--lm_targets exp/lm_targets_masked_lm_unigram200\n",
        "conf/decode_transducer.yaml ",
    ):
        assert expected in output, expected
    assert "decode_joint" not in output and "pretrain_seed1" not in output


def test_other_teachers_need_no_training(recipe, real_template):
    recipe.template = real_template
    words = ["--method", "lm_transfer", "--stage", "stats", "--stop_stage", "finetune", "--dry_run"]
    output = recipe(*words, "--lm_teacher", "minilm", "--lm_layers", "mean:4")
    assert "lm_targets --check --teacher minilm --layers mean:4 " in output and "--lm_config" not in output
    assert "lm_train" not in output and "--teacher minilm --layers mean:4 " in output
    assert "--lm_targets exp/lm_targets_minilm_unigram200" in output
    output = recipe(*words, "--lm_teacher", "/models/bert", "--lm_teacher_tag", "bert")
    assert "--teacher /models/bert " in output and "exp/lm_targets_bert_unigram200" in output
    assert "lm_targets" not in recipe("--method", "none", *words[2:])


def test_a_language_model_needs_sentences(recipe, real_template):
    recipe.template = real_template
    words = ["--method", "lm_transfer", "--stage", "pretrain", "--stop_stage", "pretrain", "--dry_run"]
    assert "--lm_text FILE; or --lm_teacher" in recipe(*words, code=1)


def test_its_language_model_is_not_looked_for_on_a_hub(recipe, real_template):
    """Without stage 6 its folder would be a name there: minutes of tries, or a model of somebody else."""
    recipe.template = real_template
    for name in ("dump/raw/train/text", "dump/raw/dev/text", "data/token_list/unigram200/tokens.txt"):
        (recipe.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe.folder / name).write_text("a WORD\n")
    output = recipe("--method", "lm_transfer", "--stage", "targets", "--stop_stage", "targets", code=1)
    assert "error: exp/masked_lm_unigram200/lm.pth does not exist: stage 6 trains" in output
    assert "hub" not in output and "Traceback" not in output
