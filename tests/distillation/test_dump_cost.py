"""What a dump says it will cost: of what is missing alone, in bytes and seconds that are right."""

import types

import pytest

from espnet_ext.data.stored import duration
from espnet_ext.distillation.dump import Dump, DumpOptions
from espnet_ext.files import human
from tests.distillation.conftest import NoiseTeacher


def make_dump(toy, *others, teacher=None, **options) -> Dump:
    place = toy.folder / "targets/one"
    return Dump(
        "one", teacher or NoiseTeacher(6, 1), [toy.data], others, place, DumpOptions(640, 16000, **options)
    )


def frames_of(dump, *sets) -> int:
    return sum(clip.samples // 640 for each in sets for clip in dump.sets[str(each)])


def test_what_is_there_costs_nothing(toy):
    """A further set is all there is to do; embeddings of another teacher do not count."""
    make_dump(toy).run()
    assert ": 0.00 h of audio to embed by one: 0 frames" in make_dump(toy).cost()
    further = make_dump(toy, toy.unlabelled)
    assert f" {frames_of(further, toy.unlabelled)} frames" in further.cost()
    other = make_dump(toy, toy.unlabelled, teacher=NoiseTeacher(6, 2))
    assert f" {frames_of(other, toy.data, toy.unlabelled)} frames" in other.cost()


@pytest.mark.parametrize(("storage", "row"), [("fp16", 12), ("int8", 10), ("rvq2", 2)])
def test_bytes(toy, storage, row):
    """What a frame takes, and a line of the index an utterance; concatenated frames are larger."""
    dump = make_dump(toy, storage=storage)
    assert f", {human(frames_of(dump, toy.data) * row + 60 * 12)}, about" in dump.cost()
    if storage == "fp16":
        dump = make_dump(toy, reduce="concat")
        assert (
            f" frames of 12 numbers (fp16), {human(frames_of(dump, toy.data) * 24 + 60 * 12)}" in dump.cost()
        )


def test_seconds(toy, monkeypatch):
    """The time of a sample, by the seconds of audio in it, is scaled to all the audio."""
    clock = [0.0]

    class Slow(NoiseTeacher):
        def embed(self, audio):
            clock[0] += sum(map(len, audio)) / 1000  # sixteen times slower than the audio
            return super().embed(audio)

    ticks = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("espnet_ext.distillation.dump.time", ticks)
    dump = make_dump(toy, toy.unlabelled, teacher=Slow(6, 1))
    samples = sum(clip.samples for own in dump.sets.values() for clip in own)
    assert dump.cost().endswith(f"about {duration(samples / 1000)}")


def test_batches_stay_within_their_seconds(toy):
    """Padding counted; every recording is in one of them, a long one alone."""
    dump = make_dump(toy, batch_seconds=2.0)
    clips = {clip.name: clip for clip in dump.sets[str(toy.data)]}
    order = sorted(clips, key=lambda name: clips[name].samples)
    batches = dump.batches(order, clips)
    assert [name for batch in batches for name in batch] == order and max(map(len, batches)) > 1
    for batch in batches:
        assert len(batch) * max(clips[name].samples for name in batch) <= 2.0 * 16000
    dump = make_dump(toy, batch_seconds=0.1)
    assert dump.batches(order, clips) == [[name] for name in order]


def test_a_teacher_of_whole_windows_hears_few_at_once(toy):
    """Whisper's windows are heard to their end, whatever the audio's length."""
    teacher = NoiseTeacher(6, 1)
    teacher.window = 64000  # 4 s; audio of the corpus is shorter
    dump = make_dump(toy, teacher=teacher, batch_seconds=9.0)
    clips = {clip.name: clip for clip in dump.sets[str(toy.data)]}
    order = sorted(clips, key=lambda name: clips[name].samples)
    assert max(clip.samples for clip in clips.values()) < 64000 and len(order) > 4
    assert {len(batch) for batch in dump.batches(order, clips)[:-1]} == {2}
