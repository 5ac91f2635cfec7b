"""Folders that ESPnet itself made, by its commands in the order of its `asr.sh`."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml

from espnet_ext.bin.report import main

pytestmark = pytest.mark.slow

#: Every word's tone, Hz; a model that has heard some of them errs, one that has heard none writes nothing.
WORDS = {"ab": 300.0, "cd": 700.0, "ef": 1500.0, "gh": 3100.0}
CONFIG = {
    "frontend_conf": {"n_fft": 256, "hop_length": 160, "n_mels": 20},
    "encoder": "transformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "normalize": "utterance_mvn",
    "optim": "adam",
    "max_epoch": 3,
    "batch_type": "unsorted",
    "batch_size": 4,
    "num_workers": 0,
    "keep_nbest_models": 2,
    "best_model_criterion": [["valid", "loss", "min"]],
    "use_tensorboard": False,
    "use_matplotlib": False,
}
#: Commands of ESPnet one after the other, each with a log; in one process, since it takes seconds to start.
COMMANDS = """
import importlib, json, os, sys
import espnet_ext  # leaves out imports that nothing here needs
for module, words, log in json.load(sys.stdin):
    os.makedirs(os.path.dirname(log), exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    importlib.import_module(module).main(words)
"""


def make_sets(folder) -> None:
    """dump/raw/{train,dev,test} and org/dev, as stages 3 and 4 leave them, with tones for words."""
    draw = np.random.default_rng(0)
    for name, speakers, each in (("train", 4, 4), ("dev", 2, 2), ("test", 12, 2)):
        rows = {file: [] for file in ("wav.scp", "text", "utt2spk", "speech_shape")}
        place = folder / "dump/raw" / name
        place.mkdir(parents=True)
        for speaker in range(speakers):
            for number in range(each):
                words = draw.choice(list(WORDS), 3)
                time = np.arange(3200) / 16000
                samples = np.concatenate([np.sin(2 * np.pi * WORDS[word] * time) for word in words])
                utterance = f"{name[:2]}_{speaker:02d}-{number}"
                soundfile.write(place / f"{utterance}.wav", 0.3 * samples, 16000)
                rows["wav.scp"].append(f"{utterance} {place / utterance}.wav\n")
                rows["text"].append(f"{utterance} {' '.join(words)}\n")
                rows["utt2spk"].append(f"{utterance} {name[:2]}_{speaker:02d}\n")
                rows["speech_shape"].append(f"{utterance} {len(samples)}\n")
        for file, lines in rows.items():
            (place / file).write_text("".join(lines))
    shutil.copytree(folder / "dump/raw/dev", folder / "dump/raw/org/dev")
    tokens = ["<blank>", "<unk>", "<space>", *"abcdefgh", "<sos/eos>"]
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")


def train(folder, exp: str, **options) -> tuple[str, list[str], str]:
    """Stage 11: exp/<name>/config.yaml, epochs, their average, train.log."""
    (folder / f"{exp}.yaml").write_text(yaml.safe_dump({**CONFIG, **options}))
    words = ["--config", f"{exp}.yaml", "--output_dir", f"exp/{exp}", "--token_type", "char", "--ngpu", "0"]
    words += ["--token_list", "tokens.txt", "--resume", "true"]
    for mode, name in (("train", "train"), ("valid", "dev")):
        words += [f"--{mode}_data_path_and_name_and_type", f"dump/raw/{name}/wav.scp,speech,sound"]
        words += [f"--{mode}_data_path_and_name_and_type", f"dump/raw/{name}/text,text,text"]
        words += [f"--{mode}_shape_file", f"dump/raw/{name}/speech_shape"]
    return "espnet2.bin.asr_train", words, f"exp/{exp}/train.log"


def decode(exp: str, tag: str, name: str) -> tuple[str, list[str], str]:
    """Stage 12, its only job: logdir/ of exp/<name>/<tag>/<set>/."""
    logs = f"exp/{exp}/{tag}/{name}/logdir"
    words = ["--asr_train_config", f"exp/{exp}/config.yaml"]
    words += ["--asr_model_file", f"exp/{exp}/valid.loss.ave.pth"]
    words += ["--data_path_and_name_and_type", f"dump/raw/{name}/wav.scp,speech,sound", "--ngpu", "0"]
    words += ["--output_dir", f"{logs}/output.1", "--beam_size", "1", "--maxlenratio", "-12"]
    return "espnet2.bin.asr_inference", words, f"{logs}/asr_inference.1.log"


def join(place) -> None:
    """The rest of stage 12: what the jobs wrote, in one file each."""
    for file in ("token", "token_int", "score", "text"):
        lines = (place / "logdir/output.1/1best_recog" / file).read_text().splitlines(keepends=True)
        (place / file).write_text("".join(sorted(lines)))


def score(folder, exp: str, tag: str, name: str) -> dict[str, float]:
    """Stage 13: trn files, with a tab before the id, and sclite; returns sclite's error rates in percent."""
    data, place, found = folder / "dump/raw" / name, folder / "exp" / exp / tag / name, {}
    speakers = dict(line.split() for line in (data / "utt2spk").read_text().splitlines())
    for kind in ("cer", "wer"):
        (place / f"score_{kind}").mkdir()
        for side, text in (("ref", data / "text"), ("hyp", place / "text")):
            rows = (line.partition(" ") for line in text.read_text().splitlines())
            lines = [
                f"{' '.join(_tokens(words, kind))}\t({speakers[utterance]}-{utterance})\n"
                for utterance, _, words in rows
            ]
            (place / f"score_{kind}" / f"{side}.trn").write_text("".join(lines))
        command = ["sctk", "sclite", "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
        command += ["-i", "rm", "-o", "all", "stdout"]
        pipes = {"stdout": subprocess.PIPE, "text": True, "check": True}
        scored = subprocess.run(command, cwd=place / f"score_{kind}", **pipes).stdout
        (place / f"score_{kind}/result.txt").write_text(scored)
        # Of the table of percentages: Corr, Sub, Del, Ins, Err, S.Err.
        found[kind] = float(re.search(r"Sum/Avg\s*\|[^|]*\|([^|]*)\|", scored)[1].split()[4])
    return found


def _tokens(words: str, kind: str) -> list[str]:
    """As ESPnet's tokenize_text of the types word and char, which makes one space of several first."""
    whole = words.split()
    return whole if kind == "wer" else [c if c != " " else "<space>" for c in " ".join(whole)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """An ESPnet recipe with two experiments, trained, decoded and scored; and sclite's figures."""
    if not shutil.which("sctk"):
        pytest.skip("sctk is not installed")
    folder, rates = tmp_path_factory.mktemp("egs2") / "tones/asr1", {}
    folder.mkdir(parents=True)
    make_sets(folder)
    tag = "decode_asr_model_valid.loss.ave"
    systems = {"asr_train_slow_raw_char": 1e-6, "asr_train_fast_raw_char": 5e-3}
    places = [(exp, name) for exp in systems for name in ("test", "org/dev")]
    commands = [
        train(folder, exp, optim_conf={"lr": lr}, model_conf={"ctc_weight": 0.5})
        for exp, lr in systems.items()
    ]
    commands += [decode(exp, tag, name) for exp, name in places]
    words = json.dumps(commands).encode()
    done = subprocess.run([sys.executable, "-c", COMMANDS], cwd=folder, input=words, check=False)
    logs = [folder / log for _, _, log in commands if (folder / log).exists()]
    assert done.returncode == 0, logs[-1].read_text()[-3000:] if logs else "nothing was run"
    for exp, name in places:
        join(folder / "exp" / exp / tag / name)
        rates[exp, name] = score(folder, exp, tag, name)
    return folder, rates


def test_two_experiments_of_espnet(recipe, tmp_path, capsys):
    folder, rates = recipe
    exps = sorted({exp for exp, _ in rates}, reverse=True)
    assert main([*(str(folder / "exp" / exp) for exp in exps), "--out_dir", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["problems"] == []
    theirs = {(each["system"], each["set"]): each for each in found["results"]}
    assert theirs.keys() == rates.keys()
    for place, each in theirs.items():
        assert each["wer"] == pytest.approx(rates[place]["wer"], abs=0.051), place  # sclite rounds to 0.1
        assert each["cer"] == pytest.approx(rates[place]["cer"], abs=0.051), place
    (test,) = (each for each in found["sets"] if each["name"] == "test")
    assert (test["utterances"], test["speakers"]) == (24, 12)
    assert [each["set"] for each in found["comparisons"]] == ["test"]  # none on what epochs were chosen on
    page = (tmp_path / "index.html").read_text()
    assert all(exp in page for exp in exps) and "asr_train_fast_raw_char" in capsys.readouterr().out


def test_before_espnet_has_scored(recipe, tmp_path):
    """Stage 12 alone: hypotheses in `text`, references in the recipe's dump folder; the same figures."""
    folder, rates = recipe
    copy = tmp_path / "asr1"
    shutil.copytree(folder, copy)
    for path in copy.glob("exp/*/*/**/score_*er"):
        shutil.rmtree(path)
    assert main([str(copy / "exp"), "--out_dir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    theirs = {(each["system"], each["set"]): each["wer"] for each in found["results"]}
    assert theirs == {place: pytest.approx(each["wer"], abs=0.051) for place, each in rates.items()}


def test_one_scored_beside_one_that_is_not(recipe, tmp_path):
    """The set's utt2spk tells the ids of trn files apart, `<speaker>-<utterance>`: both are compared."""
    copy = tmp_path / "asr1"
    shutil.copytree(recipe[0], copy)
    for path in copy.glob("exp/asr_train_fast_raw_char/*/test/score_*er"):
        shutil.rmtree(path)
    # Speakers with a hyphen, and utterances that do not begin with their speaker's name.
    speakers = copy / "dump/raw/test/utt2spk"
    speakers.write_text(speakers.read_text().replace(" te_", " te-"))
    for path in copy.glob("exp/*/*/test/score_wer/*.trn"):
        path.write_text(path.read_text().replace("(te_", "(te-"))
    exps = [copy / "exp" / exp for exp in ("asr_train_slow_raw_char", "asr_train_fast_raw_char")]
    assert main([*map(str, exps), "--out_dir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    (test,) = (each for each in found["sets"] if each["name"] == "test")
    assert (test["utterances"], test["speakers"]) == (24, 12)
    (each,) = found["comparisons"]
    assert each["set"] == "test" and each["drawn"] == "speakers"
