"""A stream finds its place again without reading what came before, and goes on for ever."""

import numpy as np
import pytest

from espnet_ext.train.data import SpeechData
from espnet_ext.train.streams import Stream


@pytest.fixture
def make_stream(toy_corpus):
    """Function: → (stream over the toy corpus, list that receives every utterance it reads)."""

    def make(name: str = "labelled"):
        read = []

        def preprocess(utterance: str, data: dict) -> dict:
            read.append(utterance)
            return {"speech": data["speech"], "text": np.array([2, 3])}

        data = SpeechData(toy_corpus / "dump", toy_corpus / "stats", preprocess)
        return Stream(name, data, 160, 900), read

    return make


def take(stream: Stream, steps: int) -> list[list[str]]:
    return [stream.next().utterances for _ in range(steps)]


def test_finding_the_place_reads_nothing_of_what_came_before(make_stream):
    stream, read = make_stream()
    steps = stream.steps(1)
    assert steps > 3
    first = take(stream, steps + 2)
    position = dict(stream.position)
    assert position == {"pass": 2, "step": 2}
    stream.close()
    resumed, read = make_stream()
    resumed.position = position
    rest = take(resumed, 1)
    assert rest == take(stream, 1)
    assert read == rest[0] and not set(read) & {u for step in first[steps:] for u in step}


def test_the_end_of_a_pass_begins_the_next(make_stream):
    """The shorter of two streams cycles: every pass has each utterance once, in another order."""
    stream, _ = make_stream()
    passes = [take(stream, stream.steps(number)) for number in (1, 2, 3)]
    names = [[u for step in each for u in step] for each in passes]
    assert sorted(names[0]) == sorted(names[1]) == sorted(names[2]) == sorted(stream.lengths)
    assert names[0] != names[1] != names[2]
    other, _ = make_stream("unlabelled")
    assert take(other, 3) != passes[0][:3]  # its order is its own
