"""Fixtures of all tests."""

import contextlib
import os
import random
import resource
import signal
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


# A shell that starts the tests in the background has them, and every program they start, ignore Ctrl-C.
# A handler that is set here becomes the default action in those programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The directory of the repository."""
    return _ROOT


@pytest.fixture(scope="session")
def full_disk():
    """Function: n → context in which no file can grow beyond n bytes, as on a disk that fills up."""

    @contextlib.contextmanager
    def limit(size: int):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def librispeech_mini() -> Path:
    """A folder of real LibriSpeech recordings with its `unpack.py`; skips the test where there is none."""
    given = os.environ.get("LIBRISPEECH_MINI")
    folder = Path(given) if given else _ROOT.parent / "shared" / "data" / "librispeech_mini"
    if not (folder / "unpack.py").is_file():
        where = f"LIBRISPEECH_MINI={given}" if given else f"LIBRISPEECH_MINI is not set, and {folder}"
        pytest.skip(f"no LibriSpeech recordings: {where} holds no unpack.py")
    return folder


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    """Seed every generator that is loaded, and keep torch to one thread: tests run beside each other."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(1)
