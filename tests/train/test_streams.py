"""A stream finds its place again without reading what came before, and goes on for ever."""

import numpy as np
import pytest

from espnet_ext.train.data import Batch, SpeechData
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


def test_denominators_are_of_the_whole_set(make_stream):
    """Labels with an end each, frames of 160 samples, a part of one counted as one."""
    stream, _ = make_stream()
    names = sorted(stream.lengths)[:3]
    totals = stream.totals(names)
    assert totals.utterances == 3
    assert totals.labels == sum(stream.data.labels[name] for name in names) + 3
    assert totals.frames == sum((stream.data.lengths[name] + 159) // 160 for name in names)


def test_masks_are_keyed_by_stream_pass_and_utterance(make_stream):
    batch = Batch(["utt01", "utt02"], {})
    labelled, unlabelled = make_stream()[0], make_stream("unlabelled")[0]
    keys = [stream.augment_keys(batch, n) for stream in (labelled, unlabelled) for n in (1, 2)]
    assert len({each for pair in keys for each in pair}) == 8
    assert keys[0] == make_stream()[0].augment_keys(batch, 1)


def test_a_loader_that_gives_something_else_is_noticed(make_stream):
    stream, _ = make_stream()
    stream._loaded = iter([Batch(["utt01"], {})])
    with pytest.raises(RuntimeError, match="loader gave .'utt01'.*the plan says"):
        stream.next()


def test_largest_batches_are_the_longest_utterances_and_the_most(make_stream):
    """What needs most memory within a budget, padding counted."""
    stream, _ = make_stream()
    stream.lengths = {"a": 10, "b": 10, "c": 20, "d": 50, "e": 40}
    assert stream.largest(100) == [("e", "d"), ("a", "b", "c")]
    assert stream.largest(60) == [("d",), ("a", "b", "c")]
    assert stream.largest(5) == [("d",)], "one utterance at least"
