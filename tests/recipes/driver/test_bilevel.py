"""Stages of `--method bilevel`: what stage 8 needs is tried out before stage 6 takes hours."""


def test_it_is_tried_out_before_the_starting_model_is_trained(recipe, real_template):
    recipe.template = real_template
    words = ["--stage", "stats", "--stop_stage", "finetune", "--dry_run", "--unlabelled_set", "more"]
    output = recipe(*words, "--method", "bilevel", "--finetune_args", "--bilevel_conf gamma_maximum=0.1")
    first, then = output.index("--dry_run true "), output.index("--output_dir exp/pretrain_seed1 ")
    assert first < then and output.count("asr_train ") == 3
    tried = next(line for line in output.splitlines() if "--dry_run true " in line)
    for word in (
        "--task bilevel ",
        "--unlabelled_data_dir dump/raw/more ",
        "--bilevel_conf gamma_maximum=0.1",
    ):
        assert word in tried, word
    assert "--dry_run true" not in recipe(*words, "--method", "none")


def test_it_needs_unlabelled_speech(recipe, real_template):
    recipe.template = real_template
    words = ["--method", "bilevel", "--stage", "stats", "--dry_run"]
    assert "needs speech without transcripts: --unlabelled_set NAME" in recipe(*words, code=1)


def test_numbers_of_a_control_belong_to_a_configuration(recipe, real_template):
    """`final_epochs 13` of 13 is supervised training alone; of 25 it would be no such thing."""
    recipe.template = real_template
    words = [
        "--system",
        "bilevel_supervised_only",
        "--stage",
        "targets",
        "--stop_stage",
        "finetune",
        "--dry_run",
    ]
    words += ["--unlabelled_set", "more"]
    message = recipe(*words, code=1)
    assert "bilevel_supervised_only was written for another training" in message
    assert "finetune_bilevel.yaml has max_epoch 25 instead of 9, bilevel_conf final_epochs 5" in message
    anew = "--bilevel_conf final_epochs=25 --optim3_conf lr=0.0002 --scheduler3_conf warmup_steps=500"
    assert anew in recipe(*words, "--finetune_args", anew)
    assert "another training" in recipe(*words, "--finetune_args", "--nbest 3", code=1)
    # Where nothing is trained, nothing is refused.
    recipe(*words[:2], "--stage", "report", "--dry_run")
