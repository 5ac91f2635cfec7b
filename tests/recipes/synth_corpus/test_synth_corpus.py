"""A tiny corpus on disk: format, splits, determinism, interruptions, a full disk."""

import filecmp
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile
from synth.corpus import write_corpus

from espnet_ext.data.kaldi import DataDir
from espnet_ext.errors import UserError

SPEECH = ("train_clean", "train_noisy", "unlabelled", "dev", "test_clean", "test_noisy")
SPLITS = {"train": SPEECH[:3], "dev": ("dev",), "test": SPEECH[4:]}


def _table(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


def test_data_directories(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    for name in SPEECH:
        folder = tiny / name
        assert (folder / "text").exists() == (name != "unlabelled")
        wavs = _table(folder / "wav.scp")
        assert len(wavs) >= 4 and list(wavs) == sorted(wavs, key=str.encode)
        for key, path in wavs.items():
            assert not Path(path).is_absolute() and key.split("-")[1] == name
            about = soundfile.info(path)
            assert (about.samplerate, about.channels, about.format, about.subtype) == (
                16000,
                1,
                "WAV",
                "PCM_16",
            )
            assert 0.8 < about.duration < 10
        for file in ("utt2spk", "utt2cond", *([] if name == "unlabelled" else ["text"])):
            assert list(_table(folder / file)) == list(wavs)
        noisy = {key for key, condition in _table(folder / "utt2cond").items() if condition == "noisy"}
        assert noisy == set(_table(folder / "utt2noise")) == set(_table(folder / "utt2room"))
    assert not list((tiny / "text_only").glob("[!t]*")) and len(_table(tiny / "text_only" / "text")) == 240


def test_our_own_stages_accept_it(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    for name in SPEECH:
        data = DataDir(Path("data") / name, need_text=name != "unlabelled")
        data.check_audio_files()
        assert len(data) >= 4


def test_splits_share_nothing(tiny):
    def of(split, file, column=0) -> set[str]:
        return {v.split()[column] for name in SPLITS[split] for v in _table(tiny / name / file).values()}

    registers = {
        kind: json.loads((tiny / f"{kind}.json").read_text()) for kind in ("voices", "noises", "rooms")
    }
    for file, kind in (("utt2spk", "voices"), ("utt2noise", "noises"), ("utt2room", "rooms")):
        train, dev, test = (of(split, file) for split in SPLITS)
        assert train and dev and test and not train & dev and not train & test and not dev & test
        for split, names in zip(SPLITS, (train, dev, test), strict=True):
            assert {registers[kind][name]["split"] for name in names} == {split}
    pairs = [(v["accent"], v["variant"]) for v in registers["voices"].values()]
    assert len(pairs) == len(set(pairs))
    texts = {
        split: {t for n in names for t in _table(tiny / n / "text").values()}
        for split, names in SPLITS.items()
    }
    texts["train"] |= set(_table(tiny / "text_only" / "text").values())
    assert not texts["train"] & texts["dev"] and not texts["train"] & texts["test"]
    assert not texts["dev"] & texts["test"]


def test_noise_and_room_recordings(tiny):
    for kind, folder in (("noises", "noise"), ("rooms", "room")):
        names = json.loads((tiny / f"{kind}.json").read_text())
        assert {path.stem for path in (tiny / folder).iterdir()} == set(names)


def test_corpus_json(tiny):
    about = json.loads((tiny / "corpus.json").read_text())
    assert about["seed"] == 0 and about["scale"] == 0.01 and about["espeak-ng"] and about["sox"]
    assert about["sets"]["train_clean"]["voices"] == 2 and about["sets"]["dev"]["hours"] > 0


def _same(one: Path, other: Path) -> None:
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert files == {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    _, different, odd = filecmp.cmpfiles(one, other, files, shallow=False)
    assert not different and not odd


def test_byte_for_byte_with_any_number_of_processes(tiny, make, tmp_path):
    done = make(tmp_path, "--nj", "1")
    assert done.returncode == 0, done.stderr
    _same(tiny, tmp_path / "data")


def test_made_once(tiny, make, tmp_path):
    shutil.copytree(tiny, tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    done = make(tmp_path)
    assert done.returncode == 0 and "data/dev: 4 utterances, 2 voices" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}


def test_interrupted(tiny, make, tmp_path):
    process = subprocess.Popen(
        [*make.command, "--scale", "0.01", "--nj", "2"],
        cwd=tmp_path,
        env=make.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("data/.train_clean.partial/wav/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert not (tmp_path / "data" / "train_clean").exists()
    assert make(tmp_path).returncode == 0
    _same(tiny, tmp_path / "data")


def test_block_that_is_there_is_kept(tiny, make, tmp_path):
    """A set that was interrupted goes on where it stopped."""
    data = tmp_path / "data"
    shutil.copytree(tiny, data)
    about = json.loads((data / "corpus.json").read_text())
    del about["sets"]
    (data / "corpus.json").write_text(json.dumps(about))
    (data / "dev").rename(data / ".dev.partial")
    (data / ".dev.partial" / "wav" / "00001.tmp").mkdir()
    kept = next((data / ".dev.partial" / "wav").glob("*/*.wav")).stat()
    assert make(tmp_path).returncode == 0
    shutil.rmtree(data / "dev" / "wav" / "00001.tmp")
    _same(tiny, data)
    assert next((data / "dev" / "wav").glob("*/*.wav")).stat().st_mtime_ns == kept.st_mtime_ns


@pytest.mark.slow
def test_other_settings_replace(tiny, make, tmp_path):
    shutil.copytree(tiny, tmp_path / "data")
    (tmp_path / "data" / "token_list").mkdir()
    done = make(tmp_path, "--seed", "1")
    assert done.returncode == 0 and "made with other settings" in done.stdout
    assert _table(tmp_path / "data/dev/text") != _table(tiny / "dev/text")
    assert (tmp_path / "data" / "token_list").exists()


@pytest.mark.slow
def test_overwrite(tiny, make, tmp_path):
    shutil.copytree(tiny, tmp_path / "data")
    wav = next((tmp_path / "data" / "dev" / "wav").glob("*/*.wav"))
    wav.write_bytes(b"broken")
    assert make(tmp_path).returncode == 0 and wav.read_bytes() == b"broken"
    assert make(tmp_path, "--overwrite").returncode == 0
    _same(tiny, tmp_path / "data")


def test_a_folder_of_somebody_else_is_left_alone(make, tmp_path):
    mine = tmp_path / "data" / "dev" / "text"
    mine.parent.mkdir(parents=True)
    mine.write_text("utt mine\n")
    done = make(tmp_path)
    assert done.returncode == 1 and "data/dev exists and was not written by this command" in done.stderr
    assert mine.read_text() == "utt mine\n"


def test_full_disk(tiny, make, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        # room enough for the speech as it was guessed, not for the noises
        done = make(disk, "--scale", "0.002")
        assert done.returncode == 1 and "error: data: cannot be written: No space left" in done.stderr, (
            done.stderr
        )
        assert "Traceback" not in done.stderr and not any((disk / "data" / name).exists() for name in SPEECH)
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        done = make(disk)
        assert done.returncode == 0, done.stderr
        _same(tiny, disk / "data")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_too_little_room_is_said_before_anything_is_made(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(UserError, match="a corpus of scale 1 takes about 0.7 GB, 0.0 GB are free"):
        write_corpus(plan, tmp_path / "data", 1, {})
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "0"], "--scale 0: expected a number above 0"),
        (["--scale", "nan"], "--scale nan: expected a number above 0"),
        (["--nj", "0"], "--nj 0: the number of processes must be at least 1"),
        (["--config", "nothing.yaml"], "nothing.yaml: No such file"),
    ],
)
def test_wrong_options(make, tmp_path, options, message):
    done = make(tmp_path, *options)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_without_espeak(make, tmp_path):
    done = make(tmp_path, env=make.environment | {"PATH": str(tmp_path)})
    assert (
        done.returncode == 1 and "apt-get install espeak-ng" in done.stderr and "Traceback" not in done.stderr
    )
