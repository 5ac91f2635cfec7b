"""Damaged files of a store, of live teachers' figures and of stage 1: each is named, with what to do."""

import json
import re

import numpy as np
import pytest

from espnet_ext.data.embeddings import EmbeddingStore, EmbeddingWriter
from espnet_ext.distillation.stage1 import take_over
from espnet_ext.distillation.targets import read_summaries, write_summaries
from espnet_ext.errors import UserError

SETTINGS = {"teacher": {"kind": "test"}, "size": 6, "storage": "rvq2", "frame_shift": 640}
AGAIN = r"run stage 7 \(targets\) again, with --force"


@pytest.fixture
def store(tmp_path):
    """A whole store of quantised frames."""
    folder = tmp_path / "store"
    writer = EmbeddingWriter(folder, SETTINGS)
    draw = np.random.default_rng(0)
    np.savez(folder / "codebooks.npz", books=draw.normal(0, 1, (2, 256, 6)).astype(np.float32))
    content = {f"{n:032x}": draw.normal(0, 1, (5, 6)).astype(np.float32) for n in range(3)}
    writer.add_shard(content)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content").write_text("x\n")
    writer.write_set(tmp_path / "data", dict(zip("abc", content, strict=True)))
    writer.finish(list(content))
    return folder


def damages(raw: bytes):
    """Copies of a file that are cut short or have one other byte."""
    draw = np.random.default_rng(0)
    yield from (raw[: len(raw) * part // 8] for part in range(8))
    for place in draw.integers(0, len(raw), 300):
        yield raw[:place] + bytes([raw[place] ^ 1 << int(draw.integers(8))]) + raw[place + 1 :]


@pytest.mark.parametrize("name", ["summary.npz", "codebooks.npz"])
def test_arrays(store, name):
    """Whatever happened to the file: an error that names it, or the numbers that were written."""

    def content() -> list[np.ndarray]:
        opened = EmbeddingStore(store)
        return list(opened.summary().values()) if name == "summary.npz" else [opened.codec.books]

    path, expected, errors = store / name, content(), 0
    advice = f"remove it and {AGAIN}" if name == "summary.npz" else f"remove {store} and {AGAIN}"
    for damaged in damages(path.read_bytes()):
        path.write_bytes(damaged)
        try:
            found = content()
        except UserError as error:
            assert re.search(f"{path}: is damaged.*; {advice}", str(error)), error
            errors += 1
        else:  # a byte that nobody reads
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert errors > 100


def test_arrays_that_are_absent_or_of_another_size(store):
    with np.load(store / "summary.npz") as file:
        whole = dict(file)
    for change, message in (
        ({"mean": None}, r"summary.npz: is damaged \(no mean\)"),
        ({"covariance": None}, r"summary.npz: is damaged \(no covariance\)"),
        ({"mean": np.zeros(7)}, r"\(mean is of shape \(7,\), not \(6\)\)"),
        ({"covariance": np.zeros(6)}, r"\(covariance is of shape \(6,\), not \(6, 6\)\)"),
    ):
        kept = {n: v for n, v in (whole | change).items() if v is not None}
        np.savez(store / "summary.npz", **kept)
        with pytest.raises(UserError, match=f"{message}; remove it and {AGAIN}"):
            EmbeddingStore(store).summary()
    np.savez(store / "codebooks.npz", books=np.zeros((3, 256, 6)))
    with pytest.raises(UserError, match=r"books is of shape \(3, 256, 6\), not \(2, any, 6\)"):
        EmbeddingStore(store).read(f"{0:032x}")


def test_settings(store):
    """Cut short, a key that is absent, a number that is another: nothing is read with wrong sizes."""
    path = store / "settings.json"
    whole = path.read_text()
    keys = [line for line in whole.splitlines() if ":" in line and "kind" not in line]
    texts = [whole[: len(whole) // 2], "", "[]\n"]
    for name in ("format", "frame_shift", "row_bytes", "size", "storage"):
        (line,) = (line for line in keys if f'"{name}"' in line)
        texts.append(whole.replace(line + "\n", ""))
    for text in texts:
        path.write_text(text)
        with pytest.raises(UserError, match=f"{path}: is not what stage 7 .* remove {store}"):
            EmbeddingStore(store)
    for name, value in (("size", 0), ("row_bytes", 3), ("storage", "fp16"), ("storage", "fp15")):
        path.write_text(json.dumps(json.loads(whole) | {name: value}))
        with pytest.raises(UserError, match=f"{path}: is damaged .* remove {store} and {AGAIN}"):
            EmbeddingStore(store)
    path.write_text(json.dumps(json.loads(whole) | {"storage": "fp16", "row_bytes": 12, "size": 7}))
    with pytest.raises(UserError, match="a frame of 7 numbers as fp16 takes 14 bytes, not 12"):
        EmbeddingStore(store)
    path.write_text(whole)
    EmbeddingStore(store).summary()


def test_utterances_of_a_set(store, tmp_path):
    """A table cut within a line; the dump makes it anew when it runs again."""
    (path,) = (store / "sets").iterdir()
    path.write_text(path.read_text()[: -len(" \n") - 32])
    with pytest.raises(UserError, match=f"{path}: expected .* Remove it and {AGAIN}"):
        EmbeddingStore(store).keys_of(tmp_path / "data")


def test_figures_of_live_teachers(tmp_path):
    path = tmp_path / "teacher_summaries.npz"
    found = {name: {"mean": np.arange(n), "covariance": np.eye(n)} for name, n in (("a", 2), ("b", 3))}
    write_summaries(path, found)
    assert np.array_equal(read_summaries(path, {"a": 2, "b": 3})["b"]["mean"], np.arange(3))
    for sizes, message in (({"a": 2, "c": 3}, "no c/mean"), ({"a": 2, "b": 4}, "b/mean is of shape")):
        with pytest.raises(UserError, match=rf"{path}: is damaged \({message}.*\); remove it; the training"):
            read_summaries(path, sizes)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{path}: is damaged; remove it; the training makes it anew"):
        read_summaries(path, {"a": 2, "b": 3})


@pytest.mark.parametrize("text", ["", '{"epochs": [1', "{}", '{"epochs": []}', "[1]"])
def test_ranking_of_stage1(tmp_path, text):
    """A list of stage 1's best epochs that is cut short, or lacks them."""
    (tmp_path / "train_summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("frontend: default\n")
    (tmp_path / "nbest.json").write_text(text)
    with pytest.raises(UserError, match=f"{tmp_path / 'nbest.json'}: .*(JSON|epochs|mapping)"):
        take_over(None, tmp_path, {"frontend": "default"}, 1)
