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


def test_pretraining_alone_is_one_option(recipe, real_template):
    """Stage 6 trains the encoder on the unlabelled set, or on the labelled one's speech; stage 8 takes it."""
    recipe.template = real_template
    words = ["--stage", "pretrain", "--stop_stage", "finetune", "--dry_run"]
    words += ["--pretrain_config", "conf/pretrain_bestrq.yaml", "--pretrain_args", "--ssl infonce"]
    for unlabelled, heard in ((["--unlabelled_set", "more"], "more"), ([], "train")):
        output = recipe(*words, "--train_set", "train", *unlabelled)
        (line,) = (line for line in output.splitlines() if "--task ssl " in line)
        assert f"--unlabelled_data_dir dump/raw/{heard} " in line and line.endswith(" --ssl infonce")
        assert "--output_dir exp/pretrain_seed1 " in line
        assert "--init_param exp/pretrain_seed1/export/model.pth:encoder:encoder" in output


def test_pseudo_labels_are_the_starting_model_s(recipe, real_template):
    """Stage 7 decodes the unlabelled set with it, stage 8 reads what came out; without the option neither."""
    recipe.template = real_template
    words = [
        "--method",
        "bilevel",
        "--unlabelled_set",
        "more",
        "--stage",
        "targets",
        "--stop_stage",
        "finetune",
    ]
    output = recipe(*words, "--dry_run", "--pseudo_labels", "joint")
    made = "--data_dir dump/raw/more --config "
    assert "decode --model_dir exp/pretrain_seed1/export " + made in output
    assert "--out_dir exp/pretrain_seed1/decode_joint/more " in output
    assert " --pseudo_text exp/pretrain_seed1/decode_joint/more/text " in output
    output = recipe(*words, "--dry_run")
    assert made not in output and "--pseudo_text" not in output and "--task bilevel " in output


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
