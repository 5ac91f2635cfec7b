"""The FFT that is loaded past scipy's imports is scipy's own, and what happens where it is not there."""

import numpy as np
import pytest
import scipy.fft

from espnet_ext.data import fft
from espnet_ext.data.logmel import LogMel


@pytest.fixture(params=["direct", "public"])
def rfft_into(request):
    """Both ways to transform; the pinned scipy must have the direct one."""
    transform = {"direct": fft._direct, "public": fft._public}[request.param]()
    assert transform is not None
    return transform


@pytest.mark.parametrize("size", [400, 512])
def test_is_the_discrete_fourier_transform(rfft_into, size):
    frames = np.random.default_rng(0).standard_normal((5, size)).astype(np.float32)
    spectra = np.full((5, size // 2 + 1), np.nan, np.complex64)
    rfft_into(frames, spectra)
    turns = np.outer(np.arange(size), np.arange(size // 2 + 1)) / size
    np.testing.assert_allclose(spectra, frames @ np.exp(-2j * np.pi * turns), atol=1e-4)
    assert np.array_equal(spectra, scipy.fft.rfft(frames))


def test_a_scipy_without_that_module_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(fft, "_NAME", "renamed")
    assert fft._direct() is None
    monkeypatch.setattr(fft, "_NAME", "pypocketfft")

    class Other:
        @staticmethod
        def r2c(frames, *further):
            further[3][:] = 1  # another transform under the same name

    for module in (None, Other, object()):
        monkeypatch.setattr(fft, "_load_extension", lambda module=module: module)
        assert fft._direct() is None


def test_integers_and_the_floats_they_stand_for_have_the_same_features():
    samples = np.random.default_rng(0).integers(-32768, 32768, 40_000).astype(np.int16)
    logmel = LogMel()
    assert np.array_equal(logmel(samples), logmel(samples.astype(np.float32) / 32768))


def test_pieces_are_the_callers_to_keep():
    """The work space is used again for the next piece; what has been handed out must not change with it."""
    samples = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    pieces = list(LogMel().chunks(samples))
    copies = [piece.copy() for piece in LogMel().chunks(samples)]
    assert len(pieces) > 2
    assert all(np.array_equal(one, other) for one, other in zip(pieces, copies, strict=True))
