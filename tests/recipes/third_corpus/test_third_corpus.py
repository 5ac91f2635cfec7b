"""A corpus that no recipe knows, in awkward paths: nothing is hard-wired to our own corpora."""

import shlex
import shutil

import numpy as np
import pytest
import soundfile

from espnet_ext.data.kaldi import DataDir, read_table

WORDS = ["ναι", "όχι", "μπορεί", "it's", "naïve"]
SETS = {"practice": 16, "check-up": 4, "final.1": 4}
#: Stand at both ends of ids, some also for a speaker.
AWKWARD = ["", "'", '"', ";", "$(touch${IFS}evil)", "/", "&", "*", "\\", "--force", "日本", "long" * 100]
AWKWARD += ["`touch${IFS}evil`", "|", "%s{}", "#", "../../"]

RUN = """\
#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

recipe_program=./run.sh exec ./asr.sh --pretrain_set practice --train_set practice --valid_set check-up \\
    --test_sets "final.1 never-recorded" --token_type char --decode_configs ctc "$@"
"""

DATA = """\
#!/usr/bin/env bash
set -euo pipefail
. ./path.sh
mkdir -p "${datadir}"
ln -sfn "$1" recordings
cp -r "$1"/sets/* "${datadir}/"
"""


@pytest.fixture
def recording(tmp_path):
    """A folder of WAV files (8 and 44.1 kHz) with data directories in ``sets/``."""
    folder = tmp_path / 'my "own" recordings; it\'s $HOME'
    draw = np.random.default_rng(0)
    for name, count in SETS.items():
        target = folder / "sets" / name
        target.mkdir(parents=True)
        rows = {file: [] for file in ("wav.scp", "text", "utt2spk")}
        segments = []
        for number in range(count):
            lead, end = (AWKWARD[(number + more) % len(AWKWARD)] for more in (1, 0))
            utterance = f"{lead}{name}{end}-{number:02d}"
            rate = (8000, 44100)[number % 2]
            samples = draw.normal(0, 0.1, int(rate * draw.uniform(1.5, 2.5)))
            path = folder / f"{name} no. {number}.wav"
            soundfile.write(path, samples, rate)
            recording = utterance
            if name == "practice":  # one set with segments
                recording = f"{lead}tape{number:02d}"
                segments.append(f"{utterance} {recording} 0.1 1.4")
            # From the recipe's folder, data.sh makes the link.
            written = f"recordings/{path.name}" if name == "final.1" else path
            rows["wav.scp"].append(f"{recording} {written}")
            rows["text"].append(f"{utterance} {' '.join(draw.choice(WORDS, 2))}")
            rows["utt2spk"].append(f"{utterance} {lead or 'somebody'}")
        for file, lines in {**rows, "segments": segments}.items():
            if lines:
                lines = sorted(lines)
                if name == "check-up":  # as some editors leave them: tabs, spaces at the end, CRLF
                    lines = [line.replace(" ", " \t", 1) + " \t\r" for line in lines]
                (target / file).write_bytes("".join(f"{line}\n" for line in lines).encode())
    return folder


@pytest.fixture
def recipe(tmp_path, repo_root, run_recipe):
    """A recipe of the template's setup.sh, in a copy of the template whose path has a space and a quote."""
    root = tmp_path / "it's a repository"
    shutil.copytree(repo_root / "egs2/TEMPLATE", root / "egs2/TEMPLATE", symlinks=True)
    (root / "tools").symlink_to(repo_root / "tools")
    run_recipe(root / "egs2/TEMPLATE/asr1/setup.sh", "third")
    recipe = root / "egs2/third/asr1"
    (recipe / "run.sh").write_text(RUN)
    (recipe / "local/data.sh").write_text(DATA)
    return recipe


@pytest.mark.slow
def test_all_stages(recipe, recording, run_recipe, tiny_options):
    options = [*tiny_options, "--local_data_opts", shlex.quote(str(recording))]
    printed = run_recipe(recipe / "run.sh", *options)
    assert "data/never-recorded is not part of this corpus: left out" in printed
    assert len(DataDir(recipe / "dump/raw/practice", need_text=True)) == SETS["practice"]
    tokens = (recipe / "data/token_list/char/tokens.txt").read_text(encoding="utf-8").split()
    assert {"ν", "ό", "'", "ï"} <= set(tokens)
    report = (recipe / "exp/report/RESULTS.md").read_text()
    for experiment in ("pretrain_seed1", "none_seed1"):
        assert (recipe / f"exp/{experiment}/export/{experiment}.zip").is_file()
        for name in ("check-up", "final.1"):
            folder = recipe / f"exp/{experiment}/decode_ctc/{name}"
            decoded = read_table(folder / "text", empty_values=True)
            assert decoded.rows.keys() == read_table(recording / "sets" / name / "text").rows.keys()
            assert (folder / "score/result.json").is_file() and name in report
    # A speaker is corrected afterwards: what was scored over speakers is scored again.
    speakers = recipe / "data/final.1/utt2spk"
    speakers.write_text("".join(f"{line.split()[0]} one\n" for line in speakers.read_text().splitlines()))
    again = run_recipe(recipe / "run.sh", *options, "--stop_stage", "score")
    assert "(stale: data/final.1/utt2spk changed)" in again
    assert "(stale: dump/raw/final.1/utt2spk changed)" in again
    assert "stage 6 pretrain: done (" in again  # nobody trains again for that
    assert not list(recipe.rglob("evil*"))
