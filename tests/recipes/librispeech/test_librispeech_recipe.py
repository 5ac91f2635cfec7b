"""The recipe on a few dozen utterances of real speech, from FLAC to the report."""

import importlib.util
import re
import shutil

import pytest
import soundfile

from espnet_ext.data.kaldi import read_table

#: Readers of the mini corpus and how many of their shortest utterances are taken.
READERS = {"174": 12, "1272": 12, "84": 6, "2277": 6}


@pytest.fixture(scope="session")
def few(librispeech_mini, tmp_path_factory):
    """Some dozen utterances of the real corpus as LibriSpeech lays them out, in a path with spaces."""
    spec = importlib.util.spec_from_file_location("unpack", librispeech_mini / "unpack.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    root = tmp_path_factory.mktemp("real speech") / "LibriSpeech"
    for reader, count in READERS.items():
        chapter = sorted((librispeech_mini / "audio" / reader).iterdir())[0]
        target = root / unpack.subset(reader) / reader / chapter.name
        target.mkdir(parents=True)
        chosen = sorted(chapter.glob("*.mp3"), key=lambda path: path.stat().st_size)[:count]
        for path in chosen:
            samples, rate = soundfile.read(path, dtype="int16")
            soundfile.write(target / f"{path.stem}.flac", samples, rate)
        (transcript,) = chapter.glob("*.trans.txt")
        lines = transcript.read_text().splitlines(keepends=True)
        names = {path.stem for path in chosen}
        (target / transcript.name).write_text("".join(x for x in lines if x.split()[0] in names))
    shutil.copy(librispeech_mini / "SPEAKERS.TXT", root)
    return root.parent


@pytest.mark.slow
def test_stages_1_to_12(few, run_recipe, recipe_dir, tmp_path, tiny_options):
    folders = [f"--{name}dir={tmp_path / name}" for name in ("data", "dump", "exp")]
    options = [
        "--small",
        "--data_dir",
        few,
        *folders,
        *tiny_options,
        "--nbpe",
        "40",
        "--decode_configs",
        "joint",
    ]
    run = recipe_dir / "run.sh"
    printed = run_recipe(run, *options, "--stop_stage", "12")
    assert f"{tmp_path}/data/test_other is not part of this corpus: left out" in printed
    report = (tmp_path / "exp/report/RESULTS.md").read_text()
    for experiment in ("pretrain_seed1", "none_seed1"):
        for name, count in (("dev", 6), ("test_clean", 6)):
            assert re.search(rf"\| {experiment} +\| joint +\| {name} ", report), report
            decoded = read_table(
                tmp_path / f"exp/{experiment}/decode_joint/{name}/text", empty_values=True, value="words"
            )
            assert decoded.rows.keys() == read_table(tmp_path / f"data/{name}/text").rows.keys()
            assert len(decoded.rows) == count

    printed = run_recipe(run, *options, "--stop_stage", "12")
    # All stages, and the starting model's own parts of 9, 10 and 11.
    assert printed.count("nothing has changed: skipped") == 12 + 3

    # Another model starts from this one's encoder.
    start = f"{tmp_path}/exp/pretrain_seed1/export/model.pth:encoder:encoder"
    run_recipe(run, *options, "--init_param", start, "--tag", "warm", "--stage", "6", "--stop_stage", "6")
    log = (tmp_path / "exp/pretrain_warm/train.log").read_text()
    (line,) = re.findall(r"tensors loaded, .*", log)
    assert "fresh: " in line and "decoder." in line and "ctc." in line and "encoder." not in line
