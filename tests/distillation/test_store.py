"""The embedding store: what is written comes back, once, whoever reads it, and a damaged one says so."""

import multiprocessing
import os
import pickle
import re
import shutil
import threading
import time

import numpy as np
import pytest

from espnet_ext.data.embedding_codecs import quantise, reconstruction_error, train_codebooks
from espnet_ext.data.embeddings import EmbeddingStore, EmbeddingWriter, audio_key
from espnet_ext.errors import UserError

SETTINGS = {"teacher": {"kind": "test"}, "size": 6, "storage": "fp16", "frame_shift": 640}


def frames(draw, count=20, size=6):
    return draw.normal(0, 2, (count, size)).astype(np.float32)


@pytest.fixture
def filled(tmp_path):
    """A store of forty recordings in four shards, and what was put in."""
    draw = np.random.default_rng(0)
    content = {f"{number:032x}": frames(draw, 5 + number) for number in range(40)}
    writer = EmbeddingWriter(tmp_path / "store", SETTINGS)
    for first in range(0, 40, 10):
        writer.add_shard(dict(list(content.items())[first : first + 10]))
    writer.finish(list(content))
    return tmp_path / "store", content


@pytest.mark.parametrize(("storage", "error"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_what_is_written_comes_back(tmp_path, storage, error):
    draw = np.random.default_rng(0)
    content = {"a" * 32: frames(draw), "b" * 32: frames(draw, 1), "c" * 32: frames(draw, 0)}
    EmbeddingWriter(tmp_path, SETTINGS | {"storage": storage}).add_shard(content)
    store = EmbeddingStore(tmp_path)
    for key, expected in content.items():
        found = store.read(key)
        assert found.dtype == np.float32 and store.frames(key) == len(expected)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max(initial=0) <= error * np.abs(expected).max(initial=1)


def test_summary(filled):
    folder, content = filled
    everything = np.concatenate(list(content.values())).astype(np.float16).astype(np.float64)
    summary = EmbeddingStore(folder).summary()
    np.testing.assert_allclose(summary["mean"], everything.mean(0), atol=1e-9)
    np.testing.assert_allclose(summary["covariance"], np.cov(everything.T, bias=True), atol=1e-9)


def _read_all(folder, order, results):
    store = EmbeddingStore(folder)
    results.put([float(np.abs(store.read(key)).sum()) for key in order])


def test_many_processes_read_at_once(filled):
    """Also after the parent has read, so that files are open when the processes are forked."""
    folder, content = filled
    store = EmbeddingStore(folder)
    keys = list(content)
    store.read(keys[0])
    expected = {key: float(np.abs(store.read(key)).sum()) for key in keys}
    orders = [list(np.random.default_rng(seed).permutation(keys * 20)) for seed in range(4)]
    context = multiprocessing.get_context("fork")

    def work(order, results):
        results.put((order, [float(np.abs(store.read(str(key))).sum()) for key in order]))

    results = context.Queue()
    workers = [context.Process(target=work, args=(order, results)) for order in orders]
    for worker in workers:
        worker.start()
    for _ in workers:
        order, found = results.get(timeout=600)
        assert found == [expected[str(key)] for key in order]
    for worker in workers:
        worker.join()


def test_a_copy_opens_files_of_its_own(filled):
    """What travels to a process that was not forked holds no open file; reading moves nobody's position."""
    folder, content = filled
    store, keys = EmbeddingStore(folder), list(content)
    before = [store.read(key) for key in keys]
    assert all(os.lseek(handle, 0, os.SEEK_CUR) == 0 for handle in store._handles.values())
    copy = pickle.loads(pickle.dumps(store))
    for handle in store._handles.values():
        os.close(handle)
    for key, expected in zip(keys, before, strict=True):
        assert np.array_equal(copy.read(key), expected)


def test_what_another_process_is_writing_is_no_shard(filled):
    """Its folder is there before it is whole."""
    folder, content = filled
    (folder / "shards" / ".0123456789abcdef.host-1.x.tmp" / "0123456789abcdef").mkdir(parents=True)
    assert len(EmbeddingStore(folder).index) == len(content)


def test_a_set_has_one_name(tmp_path):
    """With a slash at its end, as shells complete it, too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content").write_text("x\n")
    writer = EmbeddingWriter(tmp_path / "store", SETTINGS)
    writer.write_set(tmp_path / "data", {"u": "a" * 32})
    assert writer.keys_of(f"{tmp_path}/data/") == writer.keys_of(f"{tmp_path}/./data") == {"u": "a" * 32}


def test_a_key_is_what_the_audio_sounds_like():
    """A copy has the same, speed perturbation another, and so has another sample rate."""
    from espnet_ext.data.audio import to_float

    samples = np.random.default_rng(0).integers(-3000, 3000, 8000).astype(np.int16)
    key = audio_key(to_float(samples), 16000)
    assert key == audio_key(to_float(samples.copy()), 16000)
    assert key not in (audio_key(to_float(samples)[::2], 16000), audio_key(to_float(samples)[:-1], 16000))
    for place in (0, -1):
        other = samples.copy()
        other[place] += 1
        assert key != audio_key(to_float(other), 16000)
    assert key != audio_key(to_float(samples), 8000)


def test_other_settings_are_refused(filled):
    folder, content = filled
    for change, what in (({"teacher": {"kind": "other"}}, "teacher"), ({"frame_shift": 320}, "frame_shift")):
        message = re.escape(f"{folder / 'settings.json'}: these embeddings are of other settings ({what}")
        with pytest.raises(UserError, match=message):
            EmbeddingWriter(folder, SETTINGS | change)
    assert len(EmbeddingWriter(folder, SETTINGS).index) == len(content)  # the same ones are not
    emptied = EmbeddingWriter(folder, SETTINGS | {"frame_shift": 320}, replace=True)
    assert emptied.replaced and not emptied.index
    with pytest.raises(UserError, match="is not complete"):
        emptied.summary()


def test_codebooks_do_not_outlive_their_store(filled):
    """Those of other embeddings would be taken for this teacher's."""
    folder, _ = filled
    np.savez(folder / "codebooks.npz", books=np.zeros((8, 256, 6), dtype=np.float32))
    EmbeddingWriter(folder, SETTINGS | {"storage": "rvq"}, replace=True)
    assert not (folder / "codebooks.npz").exists()


def test_jobs_that_replace_at_the_same_time(filled, monkeypatch):
    """The second waits until the first has removed the old frames: what it writes then stays."""
    folder, _ = filled
    settings, remove, removing = SETTINGS | {"frame_shift": 320}, shutil.rmtree, threading.Event()

    def slow(place, **options):
        removing.set()
        time.sleep(0.3)
        remove(place, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    first = threading.Thread(target=EmbeddingWriter, args=(folder, settings, True))
    first.start()
    assert removing.wait(60)
    writer = EmbeddingWriter(folder, settings, True)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert not writer.replaced and not writer.index
    writer.add_shard({"a" * 32: np.ones((3, 6), dtype=np.float32)})
    first.join()
    assert list(EmbeddingStore(folder).index) == ["a" * 32]


def test_a_dump_whose_folder_another_one_has_claimed(filled):
    """It would put its frames, of the same names, among those of other settings."""
    folder, content = filled
    first = EmbeddingWriter(folder, SETTINGS)
    second = EmbeddingWriter(folder, SETTINGS | {"teacher": {"kind": "other"}}, replace=True)
    key, frames = next(iter(content.items()))
    second.add_shard({key: 0 * frames})
    message = re.escape(f"{folder / 'settings.json'}: another dump has made this store one of other settings")
    for write in (first.add_shard, lambda items: first.finish(list(items))):
        with pytest.raises(UserError, match=message):
            write({key: frames})
    assert not EmbeddingStore(folder).read(key).any() and not (folder / "summary.npz").exists()


@pytest.mark.parametrize("where", ["data", "index"])
def test_cut_short(filled, where):
    folder, _ = filled
    shard = sorted((folder / "shards").iterdir())[1]
    raw = (shard / where).read_bytes()
    (shard / where).write_bytes(raw[: len(raw) - 9])
    with pytest.raises(UserError, match=f"{shard}.*run stage 7"):
        EmbeddingStore(folder)


def test_an_index_without_its_last_lines(filled):
    """Cut short at the end of a line, so that the data are longer than it says."""
    folder, _ = filled
    shard = sorted((folder / "shards").iterdir())[1]
    lines = (shard / "index").read_text().splitlines(keepends=True)
    (shard / "index").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=f"{shard}.*run stage 7"):
        EmbeddingStore(folder)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\n")])
def test_a_shard_without_its_index(filled, damage):
    folder, _ = filled
    shard = sorted((folder / "shards").iterdir())[1]
    damage(shard / "index")
    with pytest.raises(UserError, match=f"remove {shard} and run stage 7"):
        EmbeddingStore(folder)


def test_cut_short_while_it_is_read(filled):
    """Found when it is read, too: the message names the file."""
    folder, content = filled
    store = EmbeddingStore(folder)
    key = max(content, key=lambda key: store.index[key][1])
    path = folder / "shards" / store.index[key][0] / "data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path}: was cut short"):
        store.read(key)


@pytest.mark.parametrize("where", ["data", "index"])
def test_altered_content_is_noticed(filled, where):
    """Files of the right length with other numbers, or with the frames of another utterance."""
    folder, content = filled
    shard = next((folder / "shards").iterdir())
    if where == "data":
        data = bytearray((shard / "data").read_bytes())
        data[0] ^= 1
        (shard / "data").write_bytes(data)
    else:
        lines = [line.split() for line in (shard / "index").read_text().splitlines()]
        lines[0][1:], lines[1][1:] = lines[1][1:], lines[0][1:]
        (shard / "index").write_text("".join(f"{' '.join(line)}\n" for line in lines))
    store = EmbeddingStore(folder)
    with pytest.raises(UserError, match=r"data: is damaged \(checksum of .*\); remove .* run stage 7"):
        for key in content:
            store.read(key)


def test_no_store(tmp_path):
    with pytest.raises(UserError, match="run stage 7"):
        EmbeddingStore(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"settings.json: is not what stage 7"):
        EmbeddingStore(tmp_path)


def test_a_number_beyond_fp16(tmp_path):
    writer = EmbeddingWriter(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="beyond fp16"):
        writer.add_shard({"a" * 32: np.full((2, 6), 1e6, dtype=np.float32)})
    assert not EmbeddingStore(tmp_path).index  # nothing half-written


def test_residual_quantisation(tmp_path):
    """Each further codebook leaves less; the store gives codes, and frames made of them."""
    draw = np.random.default_rng(0)
    centres = draw.normal(0, 3, (30, 6))
    data = (centres[draw.integers(0, 30, 3000)] + draw.normal(0, 0.5, (3000, 6))).astype(np.float32)
    books = train_codebooks(data[:2500], 8, draw)
    errors = [reconstruction_error(data[2500:], books[:count]) for count in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02 < errors[0] < 0.2
    settings = SETTINGS | {"storage": "rvq8"}
    writer = EmbeddingWriter(tmp_path, settings)
    with pytest.raises(UserError, match="codebooks.npz: no such file"):
        writer.add_shard({"a" * 32: data[:50]})
    np.savez(tmp_path / "codebooks.npz", books=books)
    writer = EmbeddingWriter(tmp_path, settings)
    writer.add_shard({"a" * 32: data[:50]})
    store = EmbeddingStore(tmp_path)
    assert store.settings["row_bytes"] == 8
    codes = store.codes("a" * 32)
    assert codes.shape == (50, 8) and np.array_equal(codes, quantise(data[:50], books))
    assert np.square(store.read("a" * 32) - data[:50]).mean() < 0.05 * data.var()
