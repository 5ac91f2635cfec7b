"""Targets are computed once, survive interruptions, and notice what has changed."""

import fcntl
import json
import os

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.dump import Dump, tokenizer_identity
from espnet_ext.lm_transfer.store import TargetStore, TargetWriter
from espnet_ext.lm_transfer.teachers import load_teacher

ROWS = {"utt0": "bad cab", "utt1": "ace", "utt2": "e"}


@pytest.fixture
def make_dump(tmp_path, tokenizer):
    """Function: (text files, teacher) → Dump into the folder `targets`."""

    def make(texts, teacher, others=(), **options) -> Dump:
        identity = tokenizer_identity(tokenizer.tokens, "char", None)
        return Dump(texts, list(others), tokenizer, identity, teacher, tmp_path / "targets", **options)

    return make


def computed(teacher) -> int:
    """How many transcripts the teacher has read since this was last asked."""
    count = len(teacher.reads)
    teacher.reads.clear()
    return count


def test_what_is_read_is_what_was_computed(make_dump, write_text, tmp_path, fake_teacher, tokenizer):
    make_dump([write_text("text", ROWS)], fake_teacher).run()
    store = TargetStore(tmp_path / "targets")
    for text in ROWS.values():
        numbers = [*tokenizer.encode(text), -1]
        expected = [[u, y, len(text)] for u, y in enumerate(numbers)]
        assert store.read(text).tolist() == expected and store.rows(text) == len(text) + 1
    assert "cab" not in store


def test_cached_equals_on_the_fly(make_dump, write_text, tmp_path, bert_folder, tokenizer):
    """K3: what training reads is what the LM says now, rounded to fp16."""
    teacher = load_teacher(str(bert_folder), tokenizer)
    dump = make_dump([write_text("text", ROWS)], teacher)
    dump.run()
    store = TargetStore(tmp_path / "targets")
    for text, now in zip(ROWS.values(), dump.compute(list(ROWS.values())), strict=True):
        stored = store.read(text)
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, now, rtol=2**-11, atol=1e-6)


def test_copies_share_and_a_changed_text_recomputes_only_itself(make_dump, write_text, fake_teacher):
    rows = ROWS | {f"sp0.9-{name}": text for name, text in ROWS.items()}  # speed-perturbed
    path = write_text("text", rows)
    make_dump([path], fake_teacher).run()
    sampled = 3  # the estimate of the time computes them once more
    assert computed(fake_teacher) == 3 + sampled
    make_dump([path], fake_teacher).run()
    assert computed(fake_teacher) == 0
    write_text("text", rows | {"utt1": "aced"})
    make_dump([path], fake_teacher).run()
    assert computed(fake_teacher) == 1 + 1


def test_an_interrupted_dump_goes_on(make_dump, write_text, tmp_path, fake_teacher):
    """Killed between and inside writes, the store ends up with the same rows, and nothing is computed
    twice.
    """
    rows = {f"utt{i}": "abcde"[: i % 5 + 1] + " " + "edcba"[: i // 5 + 1] for i in range(20)}
    path = write_text("text", rows)

    class Dies(Exception):
        pass

    def dies_after(batches):
        dump = make_dump([path], fake_teacher, batch_size=4)
        compute = dump.compute
        calls = iter(range(100))

        def computing(texts):
            if next(calls) >= batches + 3:  # the first three are the estimate's
                raise Dies
            return compute(texts)

        dump.compute = computing
        with pytest.raises(Dies):
            dump.run()

    dies_after(2)
    folder = tmp_path / "targets"
    with pytest.raises(UserError, match="is not complete.*run stage 7"):
        TargetStore(folder).summary()
    # Power went off in the middle of the next write: rows without a line, and half a line.
    with open(folder / "targets.f16", "ab") as handle:
        handle.write(b"\x01" * 7)
    with open(folder / "index.txt", "a") as handle:
        handle.write("0123abc")
    computed(fake_teacher)
    make_dump([path], fake_teacher, batch_size=4).run()
    assert computed(fake_teacher) == 12 + 12  # the estimate, then what was missing
    store = TargetStore(folder)
    for text in rows.values():
        assert store.read(text)[:, 2].tolist() == [len(text)] * (len(text) + 1)
    assert store.summary()["rows"] == sum(len(text) + 1 for text in set(rows.values()))


def test_other_settings_make_all_anew(make_dump, write_text, tmp_path, tokenizer, fake_teacher, capsys):
    path = write_text("text", ROWS)
    make_dump([path], fake_teacher).run()
    fake_teacher.identity = {"kind": "another"}
    computed(fake_teacher)
    make_dump([path], fake_teacher).run()
    assert computed(fake_teacher) == 6 and "all targets are made anew" in capsys.readouterr().out
    assert len(TargetStore(tmp_path / "targets").index) == 3


def test_cost_is_said_first_and_a_dry_run_writes_nothing(
    make_dump, write_text, tmp_path, fake_teacher, capsys
):
    dump = make_dump([write_text("text", ROWS)], fake_teacher)
    assert "3 different transcripts, 3 to compute: 14 tokens of 3 numbers, 84 bytes, about 0 s" in dump.cost()
    assert not (tmp_path / "targets").exists()
    said = []
    dump.compute = lambda texts: said.append(capsys.readouterr().out) or Dump.compute(dump, texts)
    dump.run()
    assert said[0] == "" and "84 bytes" in said[1]  # the estimate's sample, then the work
    assert (tmp_path / "targets" / "targets.f16").stat().st_size == 84
    assert "0 to compute" in dump.cost()


def test_a_key_is_of_text_and_settings(tmp_path):
    """Targets of another LM, other layers or other tokens never go by the same name."""
    keys = set()
    for number, settings in enumerate(({"size": 1}, {"size": 2}, {"size": 1, "teacher": {"layers": "sum"}})):
        TargetWriter(tmp_path / str(number), settings).close()
        store = TargetStore(tmp_path / str(number))
        keys |= {store.key("a"), store.key("b")}
        assert TargetStore(tmp_path / str(number)).key("a") == store.key("a")
    assert len(keys) == 6


def test_full_disk_is_noticed_before(make_dump, write_text, fake_teacher, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")._replace(free=50)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="the embeddings need 84 bytes, the disk has 50 bytes left"):
        make_dump([write_text("text", ROWS)], fake_teacher).run()


def test_summary_is_of_the_training_set(make_dump, write_text, tmp_path, fake_teacher, tokenizer):
    dump = make_dump([write_text("text", ROWS)], fake_teacher, [write_text("dev", {"utt9": "ddddd"})])
    dump.run()
    store = TargetStore(tmp_path / "targets")
    rows = np.concatenate([store.read(text) for text in ROWS.values()]).astype(np.float64)
    summary = store.summary()
    np.testing.assert_allclose(summary["mean"], rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(summary["std"], rows.std(0), rtol=1e-6)
    a = tokenizer.encode("a")[0]
    np.testing.assert_allclose(summary["token_mean"][a], rows[rows[:, 1] == a].mean(0), rtol=1e-6)
    assert np.isnan(summary["token_mean"][1]).all()  # <unk> never occurred
    assert "ddddd" in store


def test_numbers_beyond_fp16(tmp_path):
    writer = TargetWriter(tmp_path / "targets", {"size": 1})
    with pytest.raises(UserError, match="'a' has a number beyond fp16 .7e.04.; choose other layers"):
        writer.add(["a"], [np.array([[70000.0], [1.0]], dtype=np.float32)])


def test_a_full_disk_names_the_file_and_leaves_what_was_whole(
    make_dump, write_text, tmp_path, fake_teacher, monkeypatch
):
    """A write that fails does not know its file's name; what is half written is no target, and the next run
    goes on.
    """
    dump = make_dump([write_text("text", ROWS)], fake_teacher, batch_size=1)
    add = TargetWriter.add
    calls = iter(range(10))

    def full(writer, *batch):
        if next(calls) == 1:
            os.write(writer._data.fileno(), b"\x01" * 7)  # a row and a bit
            os.dup2(no_room, writer._data.fileno())
        add(writer, *batch)

    no_room = os.open("/dev/full", os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr(TargetWriter, "add", full)
        with pytest.raises(OSError, match="No space left") as raised:
            dump.run()
    os.close(no_room)
    assert raised.value.filename == str(tmp_path / "targets" / "targets.f16")
    store = TargetStore(tmp_path / "targets")
    assert [text in store for text in sorted(ROWS.values(), key=len)] == [False, False, True]
    computed(fake_teacher)
    dump.run()
    assert computed(fake_teacher) == 2 + 2
    assert TargetStore(tmp_path / "targets").read("e").tolist()[0][2] == 1


def test_a_folder_that_cannot_be_written(make_dump, write_text, tmp_path, fake_teacher):
    dump = make_dump([write_text("text", ROWS)], fake_teacher)
    (tmp_path / "file").write_text("")
    dump.folder = tmp_path / "file" / "targets"
    with pytest.raises(UserError, match="file/targets: cannot be written: .*give another folder"):
        dump.run()


def test_a_line_that_is_being_written_is_not_read(make_dump, write_text, tmp_path, fake_teacher):
    """Another process's dump, or the end of one that was interrupted: what there is counts, and no more."""
    dump = make_dump([write_text("text", ROWS)], fake_teacher)
    dump.run()
    with open(tmp_path / "targets" / "index.txt", "a") as handle:
        handle.write("0123abc 14")
    assert len(TargetStore(tmp_path / "targets").index) == 3
    assert "0 to compute" in dump.cost()


def test_a_summary_of_what_there_was_before_is_none(make_dump, write_text, tmp_path, fake_teacher):
    """Interrupted behind its last row a second dump is not complete: the mean is of other transcripts."""
    make_dump([write_text("text", ROWS)], fake_teacher).run()
    dump = make_dump([write_text("text", ROWS | {"utt1": "aced"})], fake_teacher)
    writer = TargetWriter(dump.folder, dump.settings)
    writer.add(["aced"], dump.compute(["aced"]))
    writer.close()
    with pytest.raises(UserError, match="is not complete.*run stage 7"):
        TargetStore(dump.folder).summary()


def test_tokens_without_embedding_are_not_in_the_mean(make_dump, write_text, tmp_path, fake_teacher):
    embed = fake_teacher.embed
    fake_teacher.embed = lambda ids: [np.where(e[:, :1] == 1, np.nan, e) for e in embed(ids)]
    make_dump([write_text("text", ROWS)], fake_teacher).run()
    store = TargetStore(tmp_path / "targets")
    rows = np.concatenate([store.read(text) for text in ROWS.values()]).astype(np.float64)
    rows = rows[rows[:, 0] != 1]
    rows = rows[~np.isnan(rows[:, 0])]
    summary = store.summary()
    assert summary["rows"] == len(rows) < 14
    np.testing.assert_allclose(summary["mean"], rows.mean(0), rtol=1e-6)


def test_the_recognisers_tokens_have_an_identity(tmp_path):
    """Other tokens, another kind, or another SentencePiece model of the same tokens: other targets."""
    (tmp_path / "one.model").write_bytes(b"1")
    (tmp_path / "two.model").write_bytes(b"2")
    found = [
        tokenizer_identity(["a", "b"], "bpe", tmp_path / "one.model"),
        tokenizer_identity(["a", "b"], "bpe", tmp_path / "two.model"),
        tokenizer_identity(["b", "a"], "bpe", tmp_path / "one.model"),
        tokenizer_identity(["a", "b"], "char", None),
    ]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
    assert tokenizer_identity(["a", "b"], "unigram", tmp_path / "one.model") == found[0]


def test_transcripts_longer_than_the_window_are_counted_once(make_dump, write_text, bert_folder, tokenizer):
    """The estimate's sample reads some of them too."""
    teacher = load_teacher(str(bert_folder), tokenizer)
    rows = {"utt0": "a b c d e " * 4 + "a", "utt1": "e d c b a " * 5 + "a", "utt2": "bad"}
    assert "; 2 are longer than the LM's window" in make_dump([write_text("text", rows)], teacher).run()
    rows = {"utt2": "bad", "utt3": "cab"}
    assert "window" not in make_dump([write_text("text", rows)], teacher).run()


def test_a_folder_of_something_else_is_left_alone(make_dump, write_text, tmp_path, fake_teacher):
    """Embeddings of speech have settings and a summary of the same names, and took hours."""
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "settings.json").write_text('{"format": 1, "size": 3, "storage": "fp16"}')
    (folder / "summary.npz").write_bytes(b"x")
    with pytest.raises(UserError, match="targets: holds a settings.json and no targets of this command"):
        make_dump([write_text("text", ROWS)], fake_teacher).run()
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "settings.json", "summary.npz"]


def test_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "targets"
    folder.mkdir()
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing"):
            TargetWriter(folder, {"size": 1})
    TargetWriter(folder, {"size": 1}).close()


def test_damaged_stores(make_dump, write_text, tmp_path, fake_teacher):
    folder = tmp_path / "targets"
    with pytest.raises(UserError, match="holds no embeddings .*run stage 7"):
        TargetStore(folder)
    make_dump([write_text("text", ROWS)], fake_teacher).run()
    data, index, settings = (folder / name for name in ("targets.f16", "index.txt", "settings.json"))
    whole = data.read_bytes(), index.read_text(), settings.read_text()
    data.write_bytes(whole[0][:-2])
    with pytest.raises(UserError, match="holds 82 bytes, its index speaks of 84"):
        TargetStore(folder)
    data.write_bytes(whole[0])
    index.write_text(whole[1] + "abc 1\n")
    with pytest.raises(UserError, match="index.txt:4: expected `<key> <first row> <rows> <checksum>`"):
        TargetStore(folder)
    index.write_text(whole[1])
    index.write_text(whole[1] + "abc -1 ü\n")
    with pytest.raises(UserError, match="index.txt:4: expected `<key> <first row> <rows> <checksum>`"):
        TargetStore(folder)
    index.write_text(whole[1])
    summary = folder / "summary.npz"
    for damaged in (b"", b"PK" + b"x" * 30, summary.read_bytes()[:200], summary.read_bytes()[:-30]):
        summary.write_bytes(damaged)
        with pytest.raises(UserError, match="summary.npz: is damaged; remove it and run stage 7"):
            TargetStore(folder).summary()
    settings.write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match="is not what stage 7 .targets. writes"):
        TargetStore(folder)


def test_reading_in_other_processes(make_dump, write_text, tmp_path, fake_teacher):
    """Readers forked from one that has read share an open file, and do not move each other's place in it."""
    import multiprocessing

    rows = {f"utt{i:02d}": "abcde"[i % 5] * (i // 5 + 1) for i in range(40)}
    make_dump([write_text("text", rows)], fake_teacher).run()
    store = TargetStore(tmp_path / "targets")
    store.read(rows["utt00"])
    assert os.lseek(store._handle.fileno(), 0, os.SEEK_CUR) == 0  # the place that they share

    def wrong(queue):
        queue.put(sum(store.read(t)[0, 2] != len(t) for _ in range(50) for t in rows.values()))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    readers = [context.Process(target=wrong, args=(queue,)) for _ in range(2)]
    for reader in readers:
        reader.start()
    assert [queue.get(timeout=600) for _ in readers] == [0, 0]
    for reader in readers:
        reader.join()


def test_altered_numbers_are_noticed(make_dump, write_text, tmp_path, fake_teacher):
    make_dump([write_text("text", ROWS)], fake_teacher).run()
    path = tmp_path / "targets" / "targets.f16"
    data = bytearray(path.read_bytes())
    data[0] ^= 1  # the last bit of a number: nothing else would tell
    path.write_bytes(data)
    store = TargetStore(path.parent)
    with pytest.raises(UserError, match=r"targets.f16: is damaged \(checksum of .*\); remove .* run stage 7"):
        for text in ROWS.values():
            store.read(text)


@pytest.mark.parametrize("first", ["0", "-2"])
def test_rows_that_overlap_are_refused(make_dump, write_text, tmp_path, fake_teacher, first):
    """A damaged index gave a transcript the embeddings of another one, without a word."""
    make_dump([write_text("text", {"a": "abc", "b": "bcd"})], fake_teacher).run()
    index = tmp_path / "targets" / "index.txt"
    lines = [line.split() for line in index.read_text().splitlines()]
    assert lines[-1][1] != "0"
    lines[-1][1] = first
    index.write_text("".join(f"{' '.join(line)}\n" for line in lines))
    with pytest.raises(UserError, match="index.txt: is damaged: .* rows from row .*run stage 7"):
        TargetStore(tmp_path / "targets")
