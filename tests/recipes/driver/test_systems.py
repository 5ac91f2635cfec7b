"""controls.yaml: named runs and what they are compared with."""

import pytest
import yaml

from espnet_ext.errors import UserError
from espnet_ext.recipe.systems import load_systems

GOOD = """
systems:
    gan: {what: a critic}
controls:
    gan_off: {what: no critic, options: {finetune_args: --x 0}, matched: [steps]}
    none: {what: plain, options: {method: none}, matched: [labelled_batches]}
"""


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "gan"
    folder.mkdir()

    def write(text):
        (folder / "controls.yaml").write_text(text)
        return [folder / "controls.yaml"]

    return write


def test_systems_and_pairs(write):
    systems = load_systems(write(GOOD))
    assert [(pair.system, pair.control) for pair in systems.pairs] == [("gan", "gan_off"), ("gan", "none")]
    assert systems.find("gan_off").experiment(3) == "gan_off_seed3"
    assert systems.find("gan_off").tag == "off_seed${seed}"
    assert systems.find("none").tag == "seed${seed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "others: {}", "expected the mappings systems and controls"),
        (GOOD.replace("[steps]", "[stepps]"), "stepps.*expected some of steps"),
        (GOOD.replace("what: no critic,", ""), "expected `what`"),
        (GOOD.replace("gan_off:", "quiet:"), "a system's name begins with its method"),
        (GOOD.replace("{finetune_args: --x 0}", "{seed: 3}"), "options may not hold seed"),
        (GOOD.replace("{what: a critic}", "{what: a critic, needs: [gan_x]}"), "gan needs gan_x"),
    ],
)
def test_what_is_refused(write, text, message):
    with pytest.raises(UserError, match=message):
        load_systems(write(text))


def test_unknown_system(write):
    systems = load_systems(write(GOOD))
    with pytest.raises(UserError, match=r"did you mean gan_off\? \(espnet_ext/\*/controls.yaml has gan, "):
        systems.find("gan_of")
    with pytest.raises(UserError, match=r"no system 'qqq' \(espnet_ext"):
        systems.find("qqq")


def test_epochs_are_those_of_a_configuration(repo_root):
    """A control of so many epochs says for which training: elsewhere its compute would be another."""
    counted = [
        system
        for system in load_systems().table.values()
        if "epoch" in system.options.get("finetune_args", "")
    ]
    assert {"gan", "mutual_learning", "bilevel", "distillation"} == {system.method for system in counted}
    for system in counted:
        file = system.options.get("finetune_config", f"conf/finetune_{system.method}.yaml")
        config = yaml.safe_load((repo_root / "egs2/synth/asr1" / file).read_text())
        assert system.other_than_assumed(config) == [], system.name
        assert system.other_than_assumed({**config, "max_epoch": 99}), system.name


def test_every_room(real_template):
    """The rooms' own files are well formed, and all their options are the recipes'."""
    from espnet_ext.recipe.options import load_options

    for system in load_systems().table.values():
        load_options(real_template / "conf/options.yaml").set_defaults(system.options, system.name)


def test_run_of_a_system(recipe, real_template):
    recipe.template = real_template
    output = recipe("--system", "gan_no_critic", "--seed", "2", "--stage", "finetune", "--dry_run")
    assert "exp/gan_no_critic_seed2" in output and "--gan_conf lambda_d=0" in output
    assert "exp/pretrain_seed2/export/model.pth" in output
    more = recipe(
        "--system=gan_no_critic", "--finetune_args", "--max_epoch 3", "--stage", "finetune", "--dry_run"
    )
    assert "--gan_conf lambda_d=0 --max_epoch 3" in more


def test_a_system_decides(recipe, real_template):
    recipe.template = real_template
    assert "--system gan_no_critic decides" in recipe(
        "--system", "gan_no_critic", "--tag", "mine", "--dry_run", code=1
    )


def test_arguments_behind_a_system_s_own(recipe, real_template):
    """What a system's arguments refer to is filled in there too."""
    recipe.template = real_template
    words = ["--system", "mutual_learning_distillation", "--seed", "3", "--stage", "finetune", "--dry_run"]
    output = recipe(*words, "--finetune_args", "--max_epoch 3")
    assert 'model_dir: "exp/mutual_learning_alone_seed3/peer2/export"' in output
    assert "}]' --max_epoch 3" in output


def test_run_of_an_ensemble(recipe, real_template):
    recipe.template = real_template
    output = recipe("--system", "mutual_learning_ensemble", "--stage", "finetune", "--dry_run")
    assert "asr_train" not in output and "mutual_learning_alone_seed1 will decode together" in output
    assert "--model_dir 'exp/mutual_learning_alone_seed1/peer*/export' --data_dir dump/raw/dev " in output
    assert "--hyp exp/mutual_learning_ensemble_seed1/decode_joint/dev/text " in output
    assert "exp/mutual_learning_ensemble_seed1/export" not in output  # there is no model of its own
    listed = recipe("--list", "--method", "mutual_learning")
    assert "score.calibration" in listed and "score.start_calibration" in listed
    assert "calibration" not in recipe("--list") and "calibration" in recipe(
        "--list", "--calibration", "true"
    )


def test_peers_are_exported_and_decoded(recipe, real_template):
    """Where a mutual training has left them; a dry run before it cannot know them."""
    recipe.template = real_template
    for number in (10, 2):
        (recipe.folder / f"exp/mutual_learning_seed1/peer{number}").mkdir(parents=True)
    (recipe.folder / "exp/mutual_learning_seed1/peers_old").mkdir()
    output = recipe("--method", "mutual_learning", "--stage", "export", "--dry_run")
    exp = "exp/mutual_learning_seed1"
    exported = [line.split("--exp_dir ")[1].split()[0] for line in output.splitlines() if "--exp_dir" in line]
    assert exported == [exp, f"{exp}/peer2", f"{exp}/peer10", "exp/pretrain_seed1"]
    for folder in (exp, f"{exp}/peer2", f"{exp}/peer10"):
        assert f"--model_dir {folder}/export --data_dir dump/raw/test " in output
        assert f"--hyp {folder}/decode_att/test/text " in output
        assert f"--out_dir {folder}/decode_att/test/score" in output
        assert f"--out_dir {folder}/calibration" in output
