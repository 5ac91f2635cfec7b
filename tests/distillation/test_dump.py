"""Writing embeddings: once, in parts, again after an interruption, and what it says before."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from espnet_ext.bin.distill_targets import main
from espnet_ext.data.embeddings import EmbeddingStore, EmbeddingWriter, audio_key
from espnet_ext.distillation.dump import Dump, DumpOptions
from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.errors import UserError
from espnet_ext.train.world import World
from tests.distillation.conftest import NoiseTeacher, speech_like, transducer_config


def make_dump(toy, teacher=None, **changes) -> Dump:
    options = {"shard_seconds": 4.0, "batch_seconds": 2.0} | changes
    sets = [toy.data], [toy.unlabelled]
    teacher = teacher or NoiseTeacher(6, 1)
    return Dump("one", teacher, *sets, toy.folder / "targets/one", DumpOptions(640, 16000, **options))


def content(toy) -> dict:
    """Frames of every utterance."""
    store = EmbeddingStore(toy.folder / "targets/one")
    return {(d, u): store.read(k) for d in (toy.data, toy.unlabelled) for u, k in store.keys_of(d).items()}


def test_goes_on_after_the_last_shard(toy, monkeypatch):
    """Killed in its third shard: that one leaves nothing, the two before are not computed again."""
    original, calls = EmbeddingWriter.add_shard, []

    def dying(self, items):
        calls.append(len(items))
        if len(calls) == 3:
            monkeypatch.setattr(EmbeddingWriter.codec.fget(self).__class__, "encode", _die)
        original(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingWriter, "add_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            make_dump(toy).run()
    monkeypatch.undo()
    assert not make_dump(toy).complete()
    with pytest.raises(UserError, match="is not complete"):
        EmbeddingStore(toy.folder / "targets/one").summary()
    teacher = NoiseTeacher(6, 1)
    make_dump(toy, teacher).run()
    assert make_dump(toy).complete()
    done = sum(calls[:2])
    sample = 8  # heard at most so many times more, to say how long it will take, and one twice
    assert 17 - done <= teacher.heard <= 17 - done + sample + 1
    again = content(toy)
    shutil.rmtree(toy.folder / "targets")
    make_dump(toy).run()
    assert all(np.array_equal(again[name], frames) for name, frames in content(toy).items())
    last = NoiseTeacher(6, 1)
    make_dump(toy, last).run()
    assert last.heard == 0  # nothing is left to do


def _die(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:200])])
def test_codebooks_that_are_lost(toy, monkeypatch, damage):
    """New ones would decode what the old ones coded to something else."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    make_dump(toy, storage="rvq2").run()
    path = toy.folder / "targets/one/codebooks.npz"
    damage(path)
    shutil.rmtree(next((path.parent / "shards").iterdir()))
    with pytest.raises(UserError, match=f"{path}: .*remove {path.parent} and run stage 7"):
        make_dump(toy, storage="rvq2").run()


def test_jobs_share_the_shards(toy):
    """Two jobs, one after the other: the first leaves its part to the other, which ends the store."""
    first, second = make_dump(toy), make_dump(toy)
    assert "are left to other jobs" in first.run(1, 2)
    assert not first.complete()
    assert "are complete" in second.run(2, 2)
    assert first.complete() and second.complete()
    shared = content(toy)
    shutil.rmtree(toy.folder / "targets")
    make_dump(toy).run()
    assert all(np.array_equal(shared[name], frames) for name, frames in content(toy).items())


def test_says_what_it_will_cost(toy, monkeypatch):
    """Disk and time first; nothing is written; a disk that is too small is refused before anything is."""
    dump = make_dump(toy)
    said = dump.cost()
    frames = sum(len(a) // 640 for a in [*toy.audio.values()]) + sum(
        c.samples // 640 for c in dump.sets[str(toy.unlabelled)]
    )
    assert f"{frames} frames of 6 numbers (fp16), " in said and re.search(r"about \d+ s", said)
    assert not (toy.folder / "targets").exists()
    usage = shutil.disk_usage(toy.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(UserError, match="the embeddings need .* the disk has 100 bytes left"):
        dump.run()


def test_a_perturbed_copy_is_another_recording(toy, write_set):
    """A copy at another speed has embeddings of its own, a copy under another name has the same ones."""
    audio = toy.audio["u00"]
    faster = np.interp(np.arange(0, len(audio) - 1, 1.1), np.arange(len(audio)), audio).astype(np.float32)
    folder = write_set("copies", {"u00": audio, "sp1.1-u00": faster, "copy": audio})
    teacher = NoiseTeacher(6, 1)
    dump = Dump("one", teacher, [folder], [], toy.folder / "copies_store", DumpOptions(640, 16000))
    dump.run()
    store = EmbeddingStore(toy.folder / "copies_store")
    keys = store.keys_of(folder)
    assert keys["copy"] == keys["u00"] != keys["sp1.1-u00"] and len(store.index) == 2
    assert store.frames(keys["sp1.1-u00"]) == pytest.approx(store.frames(keys["u00"]) / 1.1, abs=1)
    heard = dump.reader.read(dump.sets[str(folder)][-1])
    assert audio_key(heard, 16000) == keys[dump.sets[str(folder)][-1].name]


def test_loader_processes_read_the_same(toy):
    """With two loader processes as with none, the parent having read before."""
    toy.dump()
    found = []
    for workers in (0, 2):
        args = toy.args(
            EncoderTask,
            f"--targets_dir={toy.folder / 'targets'}",
            distillation_conf={"teachers": {"one": 1, "two": 1}},
            num_workers=workers,
        )
        stream = EncoderTask.build_streams(args, World())["labelled"]
        stream.targets.read(str(toy.data), 0, "u00")
        order = [tuple(sorted(stream.data.lengths)[i : i + 3]) for i in range(0, 12, 3)] * 3
        batches = list(stream.data.batches(order, workers))
        found.append([{n: t for n, t in b.tensors.items() if n.startswith("target")} for b in batches])
    assert len(found[0]) == len(found[1]) == 12
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys() and len(one) == 4
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def command(toy, recogniser):
    """Function: (options) → exit status of the command, with a student and a teacher there."""
    student = toy.folder / "student.yaml"
    student.write_text(yaml.safe_dump(transducer_config()))
    place = recogniser()

    def call(*words: str, teacher: str = f"enc={place}"):
        options = ["--data_dir", str(toy.data), "--other_data_dir", str(toy.unlabelled)]
        options += ["--out_dir", str(toy.folder / "out"), "--student", str(student)]
        return main(["--teacher", teacher, *options, *words])

    return call


def test_command(command, toy, capsys, monkeypatch):
    """A dry run writes nothing; a store says when it is complete; other settings are refused or replaced."""
    assert command("--dry_run") == 0
    assert "nothing is written" in capsys.readouterr().out and not (toy.folder / "out").exists()
    parts, done = toy.folder / "parts.yaml", toy.folder / "out/complete.json"
    parts.write_text("shard_seconds: 4.0\nbatch_seconds: 2.0\n")
    assert command("--config", str(parts), "--job", "1", "--num_jobs", "2") == 0
    assert not done.exists()  # stage 8 would begin
    assert command("--config", str(parts), "--job", "2", "--num_jobs", "2") == 0
    about = json.loads(done.read_text())["enc"]
    assert about["place"].endswith("recogniser") and about["storage"] == "fp16"
    config = toy.folder / "targets.yaml"
    config.write_text("storage: rvq2\nteachers: {enc: {layer: 1}}\n")
    capsys.readouterr()
    assert command("--config", str(config)) == 1
    said = capsys.readouterr().err
    assert "settings.json: these embeddings are of other settings (" in said and "storage, teacher" in said
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    assert command("--config", str(config), "--replace") == 0
    said = capsys.readouterr().out
    assert "teacher or settings have changed" in said and "of the variance of" in said
    with np.load(toy.folder / "out/enc/codebooks.npz") as books:
        assert books["books"].shape[0] == 2


def test_bad_input(command, toy, write_set, capsys, huggingface):
    """Each error names the file, and comes before anything is computed."""
    other = write_set("slow", {"x": speech_like(np.random.default_rng(0), 9000)}, rate=8000)
    (toy.folder / "empty").mkdir()
    (toy.folder / "other.yaml").write_text("teachers: {enc: {layers: 3}}\n")
    few = toy.folder / "few.yaml"
    few.write_text("storage: rvq\n")
    draw = np.random.default_rng(0)
    short = write_set("short", {"a": speech_like(draw, 300), "b": speech_like(draw, 9000)})
    place = toy.folder / "recogniser"
    damaged = toy.folder / "damaged"
    shutil.copytree(place, damaged)
    state = torch.load(damaged / "model.pth", weights_only=True)
    state["encoder.after_norm.weight"][0] = float("nan")
    torch.save(state, damaged / "model.pth")
    weightless = huggingface("hubert", "weightless")
    (weightless / "model.safetensors").unlink()
    for words, teacher, message in (
        ((), f"enc={toy.folder / 'empty'}", f"teacher {toy.folder / 'empty'}: unknown type"),
        ((), f"enc={toy.folder / 'absent'}", f"teacher {toy.folder / 'absent'}: no such file"),
        ((), f"enc={weightless}", f"teacher {weightless}: no weights in this folder"),
        ((), f"enc={huggingface('hubert', 'slow', rate=8000)}", "hears 8000 Hz, this audio has 16000 Hz"),
        ((), "enc", "expected NAME=PLACE"),
        ((), "rec", "for a place with white space in its name make a link"),
        ((), f"enc={damaged}", "teacher enc: an embedding holds nan or infinity"),
        (("--config", str(few)), None, "out/enc: 201 frames are too few for 256 codes"),
        (("--data_dir", str(short)), None, f"{place}: an utterance of 300 samples is too short for it"),
        (
            ("--data_dir", str(other)),
            None,
            "wav' has 1 channel(s) at 8000 Hz, the teacher hears mono at 16000",
        ),
        (("--config", str(toy.folder / "other.yaml")), None, "other.yaml: teachers: enc: unknown layers"),
        (("--job", "3", "--num_jobs", "2"), None, "--job 3"),
    ):
        assert command(*words, **({"teacher": teacher} if teacher else {})) == 1
        assert not list((toy.folder / "out").rglob("data")), message
        assert message in capsys.readouterr().err, message
        shutil.rmtree(toy.folder / "out", ignore_errors=True)
    assert command() == 0
    data = next((toy.folder / "out/enc/shards").iterdir()) / "data"
    data.write_bytes(data.read_bytes()[:-5])
    assert command() == 1
    assert f"{data}: was cut short; remove" in capsys.readouterr().err
