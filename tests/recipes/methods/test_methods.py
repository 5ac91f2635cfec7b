"""Every method through a recipe's stages: killed and gone on with, exported, decoded by stock ESPnet."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from tests.recipes.conftest import TINY, TINY_TRANSDUCER

SETS = {"practice": 16, "spare": 12, "check": 4}
RUN = """\
#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

recipe_program=./run.sh exec ./asr.sh --pretrain_set practice --train_set practice --unlabelled_set spare \\
    --valid_set check --test_sets check --token_type char --decode_configs att --nbest 2 --nj 1 "$@"
"""
#: Options of a method and what its training is given, as small as can be.
METHODS = {
    "gan": ({"critic_conf": {"width": 8, "kernel_sizes": [2, 2]}, "optim2_conf": {"lr": 0.001}}, "export"),
    "bilevel": ({"unlabelled_frames_per_step": 1000}, "export"),
    "mutual_learning": ({}, "peer2/export"),
    "lm_transfer": ({"lm_transfer_conf": {"warmup": 3}}, "export"),
    "lm_transfer_transducer": ({"lm_transfer_conf": {"warmup": 3}}, "export"),
}
#: Where a method begins, and what else it is told: lm_transfer trains its language model and, in its second
#: run, a transducer to start from.
LM = ["--lm_text", "data/practice/text", "--masked_lm_config", "lm.yaml"]
TRANSDUCER = ["--pretrain_config", "conf/pretrain_transducer.yaml", "--decode_configs", "transducer"]
WORDS = {
    "lm_transfer": ["--stage", "pretrain", *LM],
    "lm_transfer_transducer": ["--stage", "stats", *LM, *TRANSDUCER],
}
EPOCHS = 12
STOCK = """
import sys
sys.modules["espnet_ext"] = None
import numpy
from espnet2.bin.asr_inference import Speech2Text
recogniser = Speech2Text("config.yaml", "model.pth", ctc_weight=0.3, beam_size=2, maxlenratio=-5)
print("text:", recogniser(numpy.random.default_rng(0).standard_normal(8000).astype("float32"))[0][0])
"""
STOCK_TRANSDUCER = """
import sys
sys.modules["espnet_ext"] = None
import numpy
from espnet2.bin.asr_transducer_inference import Speech2Text
recogniser = Speech2Text(asr_train_config="config.yaml", asr_model_file="model.pth", beam_size=2)
speech = numpy.random.default_rng(0).standard_normal(8000).astype("float32")
print("text:", recogniser.hypotheses_to_results(recogniser(speech))[0][0])
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, repo_root, run_recipe):
    """A recipe of the template's setup.sh after stages 1 to 6, with a set of speech without labels."""
    root = tmp_path_factory.mktemp("methods")
    shutil.copytree(repo_root / "egs2/TEMPLATE", root / "egs2/TEMPLATE", symlinks=True)
    (root / "tools").symlink_to(repo_root / "tools")
    run_recipe(root / "egs2/TEMPLATE/asr1/setup.sh", "small")
    folder = root / "egs2/small/asr1"
    (folder / "run.sh").write_text(RUN)
    (folder / "local/data.sh").write_text("#!/usr/bin/env bash\n")
    draw = np.random.default_rng(0)
    for name, count in SETS.items():
        rows = {file: [] for file in ("wav.scp", "text", "utt2spk")}
        (folder / "data" / name).mkdir(parents=True)
        for number in range(count):
            path = root / f"{name}{number}.wav"
            soundfile.write(path, draw.normal(0, 0.1, int(16000 * draw.uniform(1.5, 2.5))), 16000)
            utterance = f"{name}-{number:02d}"
            rows["wav.scp"].append(f"{utterance} {path}\n")
            rows["text"].append(f"{utterance} {' '.join(draw.choice(['one', 'two', 'three'], 3))}\n")
            rows["utt2spk"].append(f"{utterance} {name}-{number % 2}\n")
        for file, lines in rows.items():
            (folder / "data" / name / file).write_text("".join(sorted(lines)))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "conf/pretrain_transducer.yaml").write_text(yaml.safe_dump(TINY_TRANSDUCER))
    lm = {"size": 8, "heads": 2, "blocks": 1, "max_epoch": 2, "nbest": 1, "warmup_steps": 1}
    (folder / "lm.yaml").write_text(yaml.safe_dump(lm))
    run_recipe(folder / "run.sh", "--pretrain_config", folder / "tiny.yaml", "--stop_stage", "pretrain")
    return folder


def family(number: int) -> list[int]:
    """A process and all that it started, in whatever groups (Linux); some may end while they are counted."""
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return []
    return [number, *(one for child in children for one in family(int(child)))]


def killed(command: list[str], experiment) -> None:
    """Start the recipe and kill it with all that it started as soon as its training has saved something."""
    environment = os.environ | {
        "ESPNET_EXT_OWN_PYTHON": "1",
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    end = time.monotonic() + 1800
    while not (experiment / "checkpoint.pth").exists():
        assert process.poll() is None, "the recipe ended before anything was saved"
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.005)
    for number in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
    assert not (experiment / "train_summary.json").exists(), "it was done before it was killed"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_from_its_targets_to_its_scores(recipe, run_recipe, method):
    small, export = METHODS[method]
    default = yaml.safe_load((recipe.parents[1] / f"TEMPLATE/asr1/conf/finetune_{method}.yaml").read_text())
    name, transducer = method.removesuffix("_transducer"), method.endswith("_transducer")
    for key, value in small.items():
        default[key] = {**default.get(key, {}), **value} if isinstance(value, dict) else value
    default |= {
        "max_epoch": EPOCHS,
        "checkpoint_steps": 1,
        "frames_per_step": 2000,
        "scheduler_conf": {"warmup_steps": 3},
    }
    (recipe / f"{method}.yaml").write_text(yaml.safe_dump(default))
    words = ["--pretrain_config", recipe / "tiny.yaml", "--method", name, "--pretrain_tag", "seed1"]
    words += ["--finetune_config", recipe / f"{method}.yaml", *WORDS.get(method, ["--stage", "targets"])]
    tags = [f"{kind}{'_transducer' * transducer}" for kind in ("broken", "straight")]
    run_recipe(recipe / "run.sh", *words, "--tag", tags[1], "--stop_stage", "export")
    broken = [*words, "--tag", tags[0], "--stop_stage", "score"]
    killed([recipe / "run.sh", *map(str, broken)], recipe / f"exp/{name}_{tags[0]}")
    run_recipe(recipe / "run.sh", *broken)
    assert "resumed at epoch" in (recipe / f"exp/{name}_{tags[0]}/train.log").read_text()
    same_model(*(recipe / f"exp/{name}_{tag}" / export for tag in tags))
    folder = (recipe / f"exp/{name}_{tags[0]}" / export).parent
    assert (folder / f"decode_{'transducer' if transducer else 'att'}/check/score/result.json").is_file()
    assert_stock_decodes(folder / "export", STOCK_TRANSDUCER if transducer else STOCK)


def same_model(*folders: Path) -> None:
    """Two exported models have the same parameters to the bit."""
    ours, theirs = (torch.load(folder / "model.pth", weights_only=True) for folder in folders)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def assert_stock_decodes(folder: Path, program: str) -> None:
    """ESPnet's own inference reads an exported model where this package cannot be imported."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert "text:" in done.stdout


@pytest.mark.slow
def test_both_stages_of_distillation(recipe, run_recipe):
    """Killed in the training of the self-supervised teacher, in stage 1 and in stage 2; each goes on."""
    conf = recipe.parents[1] / "TEMPLATE/asr1/conf"
    many = {"max_epoch": EPOCHS, "checkpoint_steps": 1, "frames_per_step": 2000}
    for name in ("distil_bestrq", "distil_encoder", "finetune_distillation"):
        small = yaml.safe_load((conf / f"{name}.yaml").read_text()) | many
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(small))
    (recipe / "student.yaml").write_text(yaml.safe_dump(TINY_TRANSDUCER))
    (recipe / "targets.yaml").write_text(yaml.safe_dump({"teachers": {"bestrq": {"layer": 1}}}))
    words = ["--pretrain_config", "tiny.yaml", "--method", "distillation", "--pretrain_tag", "seed1"]
    words += ["--student_config", "student.yaml", "--bestrq_model", "tiny.yaml"]
    words += ["--bestrq_config", "distil_bestrq.yaml", "--stage1_config", "distil_encoder.yaml"]
    words += ["--teacher_config", "targets.yaml"]
    words += ["--finetune_config", "finetune_distillation.yaml", "--models", "own"]
    words += ["--decode_configs", "transducer", "--stage", "stats", "--tag"]
    broken = [recipe / "run.sh", *words, "broken", "--stop_stage", "score"]
    places = ("exp/teacher_bestrq_seed1", "exp/distil_encoder_broken", "exp/distillation_broken")
    for place in places:
        killed([*map(str, broken)], recipe / place)
    run_recipe(*broken)
    for place in places:
        assert "resumed at epoch" in (recipe / place / "train.log").read_text()
    run_recipe(recipe / "run.sh", *words, "straight", "--stop_stage", "export")
    exports = [recipe / f"exp/distillation_{tag}/export" for tag in ("broken", "straight")]
    same_model(*exports)
    assert (exports[0].parent / "decode_transducer/check/score/result.json").is_file()
    assert_stock_decodes(exports[0], STOCK_TRANSDUCER)
