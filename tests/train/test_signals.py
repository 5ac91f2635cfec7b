"""Being asked to stop, more than once and from the outermost watcher on."""

import os
import signal

from espnet_ext.train.signals import StopRequest


def test_a_second_signal_changes_nothing():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with StopRequest() as request:
        assert not request and request.name is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert request and request.name == "SIGUSR1"
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert request and request.name == "SIGUSR1"
    assert request  # what was asked stays asked
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_the_outermost_watcher_counts():
    with StopRequest() as request:
        with request:
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # would end this process if the inner one had put back what was
        assert request.name == "SIGTERM"
