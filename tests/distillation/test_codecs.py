"""How frames are stored: what 8 bits leave of a number, and codebooks that are k-means."""

import numpy as np
import pytest

from espnet_ext.data.embedding_codecs import Int8, codebooks_of, nearest, train_codebooks
from espnet_ext.errors import UserError


def test_int8_has_steps_of_each_frame():
    """A quiet frame beside a loud one is as exact; no number is further off than half a step."""
    frames = np.random.default_rng(0).normal(0, 1, (40, 9)).astype(np.float32)
    frames[::2] *= 1000
    codec = Int8(9)
    found = codec.decode(codec.rows(codec.encode(frames)))
    steps = np.abs(frames).max(1, keepdims=True) / 127
    assert (np.abs(found - frames) <= 0.5001 * steps).all()


def test_names():
    """`rvq` with 1 to 64 codebooks, 8 unless it says so."""
    assert [codebooks_of(name) for name in ("fp16", "int8", "rvq", "rvq1", "rvq64")] == [0, 0, 8, 1, 64]
    for name in ("rvq0", "rvq65", "rvq-1", "rvqx", "fp32", ""):
        with pytest.raises(UserError, match=f"storage {name}: expected fp16, int8, rvq or rvqN"):
            codebooks_of(name)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_int8_refuses_what_is_no_number(number):
    frames = np.ones((3, 4), dtype=np.float32)
    frames[1, 2] = number
    with pytest.raises(UserError, match="a number that is not finite"):
        Int8(4).encode(frames)


def test_codes_are_the_means_of_their_frames(monkeypatch):
    """Lloyd's fixed point; a code that nobody uses is drawn anew, until all groups of frames have one."""
    monkeypatch.setattr("espnet_ext.data.embedding_codecs.CODES", 4)
    draw = np.random.default_rng(0)
    centres = np.array([[0, 0], [40, 0], [0, 40], [40, 40]])
    frames = (np.repeat(centres, 25, axis=0) + draw.normal(0, 1, (100, 2))).astype(np.float32)
    (book,) = train_codebooks(frames, 1, draw, iterations=20)
    codes = nearest(frames, book)
    for code in np.unique(codes):
        np.testing.assert_allclose(book[code], frames[codes == code].mean(0), rtol=1e-5, atol=1e-4)
    same = np.repeat(centres, 25, axis=0).astype(np.float32)  # a draw of four frames has some of them twice
    for seed in range(4):
        (book,) = train_codebooks(same, 1, np.random.default_rng(seed), iterations=30)
        assert np.array_equal(book[nearest(same, book)], same), seed
