"""What a dump leaves behind: frames, figures of the training sets alone, codebooks that stay."""

import numpy as np
import pytest

from espnet_ext.data.embeddings import EmbeddingStore
from espnet_ext.distillation import clips
from espnet_ext.distillation.clips import SetReader
from espnet_ext.distillation.dump import Dump, DumpOptions
from espnet_ext.errors import UserError
from tests.distillation.conftest import NoiseTeacher, speech_like


def make_dump(toy, train=None, others=(), teacher=None, **options) -> Dump:
    options = DumpOptions(640, 16000, shard_seconds=4.0, **options)
    train = [toy.data] if train is None else train
    return Dump("one", teacher or NoiseTeacher(6, 1), train, others, toy.folder / "store", options)


def frames_of(toy, data_dir) -> list[np.ndarray]:
    store = EmbeddingStore(toy.folder / "store")
    return [store.read(key) for _, key in sorted(store.keys_of(data_dir).items())]


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_frames_side_by_side(toy, storage):
    """`reduce: concat` stores frames of twice the size, of the numbers that the teacher gives."""
    make_dump(toy, reduce="concat", storage=storage).run()
    teacher = NoiseTeacher(6, 1)
    for (name, samples), found in zip(sorted(toy.audio.items()), frames_of(toy, toy.data), strict=True):
        (frames,) = teacher.embed([samples])
        expected = frames[: len(frames) // 2 * 2].reshape(-1, 12).numpy()
        assert found.shape == expected.shape, name
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_figures_are_of_the_training_sets(toy):
    """Neither validation nor anything else has a part in what standardises the targets."""
    make_dump(toy, others=[toy.unlabelled]).run()
    summary = EmbeddingStore(toy.folder / "store").summary()
    frames = np.concatenate(frames_of(toy, toy.data))
    assert int(summary["frames"]) == len(frames)
    np.testing.assert_allclose(summary["mean"], frames.mean(0), rtol=1e-4, atol=1e-5)


def test_without_its_figures_it_is_not_complete(toy):
    dump = make_dump(toy)
    dump.run()
    assert dump.complete()
    (toy.folder / "store" / "summary.npz").unlink()
    assert not dump.complete()
    assert "are complete" in make_dump(toy).run() and dump.complete()


def test_the_other_job_ends_first(toy, monkeypatch):
    """Both have begun when the first ends: the second sees what it has written, and ends the store."""
    second, compute, said = make_dump(toy), Dump._compute, []

    def while_the_other(self, absent):
        if not said:
            said.append("")
            said.append(make_dump(toy).run(1, 2))
        return compute(self, absent)

    monkeypatch.setattr(Dump, "_compute", while_the_other)
    assert "are complete" in second.run(2, 2)
    assert "are left to other jobs" in said[1]


def test_codebooks_stay(toy, monkeypatch):
    """A set that is added later is coded with the books that are there: the others decode as before."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 16)
    make_dump(toy, storage="rvq2").run()
    books = (toy.folder / "store" / "codebooks.npz").read_bytes()
    before = frames_of(toy, toy.data)
    make_dump(toy, others=[toy.unlabelled], storage="rvq2").run()
    assert (toy.folder / "store" / "codebooks.npz").read_bytes() == books
    assert all(map(np.array_equal, frames_of(toy, toy.data), before))
    assert len(frames_of(toy, toy.unlabelled)) == 5


def test_recordings_are_read_once(toy, monkeypatch):
    """What was read for its checksum waits for the teacher; what has been heard makes room."""
    reads, read = [], clips.read_audio
    monkeypatch.setattr(clips, "read_audio", lambda *place: reads.append(place) or read(*place))
    monkeypatch.setattr(clips, "_KEPT", 16000)  # one of them
    reader = SetReader(16000)
    for clip in reader.clips(toy.data):
        early = reader.read_early(clip)
        assert np.array_equal(reader.read(clip), early) and len(early) == clip.samples
    assert len(reads) == 12
    for clip in reader.clips(toy.data):
        reader.read_early(clip)
    for clip in reader.clips(toy.data):
        reader.read(clip)
    assert len(reads) == 12 + 12 + 11  # there is room for one


def test_bad_recordings(toy, write_set):
    """Two channels, and a recording without its length: named, with line."""
    draw = np.random.default_rng(0)
    stereo = write_set("stereo", {"a": np.stack([speech_like(draw, 9000)] * 2, 1)})
    with pytest.raises(UserError, match=r"wav.scp:1: .* has 2 channel\(s\) at 16000 Hz, .* --fs 16000"):
        make_dump(toy, [stereo]).run()
    lengths = toy.data / "utt2num_samples"
    lengths.write_text("".join(lengths.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=rf"wav.scp:12: 'u11' is not in {lengths}"):
        make_dump(toy)
