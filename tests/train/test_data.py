"""Augmentation belongs to the utterance and the pass, whatever process loads it and in whatever order."""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.data import Batch, KeyedPreprocess, SpeechData, read_shapes
from espnet_ext.train.loaders import _Compact, _tensors, loaders_watched


def draw(utterance: str, data: dict) -> dict:
    """Stands for ESPnet's preprocessor: draws from both global generators, adds a channel axis."""
    noise = np.random.normal(size=len(data["speech"])) + random.random()
    return {"speech": (data["speech"] + noise)[:, None].astype("float32"), "text": np.array([2, 3])}


def test_keyed_by_seed_pass_and_utterance():
    silence = {"speech": np.zeros(8)}

    def once(seed, passes, utterance):
        keyed = KeyedPreprocess(draw, seed)
        keyed.passes = passes
        return keyed(utterance, dict(silence))["speech"]

    first = once(1, 1, "a")
    np.random.rand(5), random.random()  # what was drawn before does not matter
    assert np.array_equal(first, once(1, 1, "a")) and first.ndim == 1
    for other in ((2, 1, "a"), (1, 2, "a"), (1, 1, "b")):
        assert not np.array_equal(first, once(*other))


def test_global_generators_are_left_as_they_were():
    np.random.seed(3), random.seed(3)
    expected = np.random.rand(), random.random()
    np.random.seed(3), random.seed(3)
    KeyedPreprocess(draw, 1)("a", {"speech": np.zeros(8)})
    assert (np.random.rand(), random.random()) == expected


def test_loading_draws_nothing_from_torchs_generator(toy_corpus):
    data = SpeechData(toy_corpus / "dump", toy_corpus / "stats", draw)
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(data.batches([("utt05",)], workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_in_any_order_and_process(toy_corpus, workers):
    data = SpeechData(toy_corpus / "dump", toy_corpus / "stats", draw, seed=4)
    names = sorted(data.lengths)[:4]
    forward = {b.utterances[0]: b.tensors["speech"] for b in data.batches([(n,) for n in names], 0, passes=2)}
    backward = data.batches([(n,) for n in reversed(names)], workers, passes=2)
    for batch in backward:
        assert forward[batch.utterances[0]].equal(batch.tensors["speech"])
    again = next(iter(data.batches([(names[0],)], workers, passes=3)))
    assert not forward[names[0]].equal(again.tensors["speech"])


def test_speech_is_what_the_file_holds(toy_corpus):
    data = SpeechData(
        toy_corpus / "dump", toy_corpus / "stats", lambda _, d: {"speech": d["speech"]}, text=False
    )
    batch = next(iter(data.batches([("utt05",)], 0)))
    samples, _ = soundfile.read(toy_corpus / "5.wav", dtype="float32")
    assert np.array_equal(batch.tensors["speech"][0].numpy(), samples)


def test_bad_shapes_are_named(tmp_path):
    (tmp_path / "shape").write_text("a 5\nb five\n")
    with pytest.raises(UserError, match=r"shape:2: expected `<utterance> <length>`, found 'b five'"):
        read_shapes(tmp_path / "shape")


def test_shapes_of_another_set_are_refused(toy_corpus, tmp_path):
    (tmp_path / "speech_shape").write_text("stranger 16000\n")
    with pytest.raises(UserError, match="1 utterances are not in .*'stranger'; rerun stage stats"):
        SpeechData(toy_corpus / "dump", tmp_path, draw, text=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_vanished_is_named(toy_corpus, tmp_path, workers):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\nb {tmp_path / 'b.wav'}\n")
    (tmp_path / "speech_shape").write_text("a 800\nb 800\n")
    data = SpeechData(tmp_path, tmp_path, draw, text=False)
    (tmp_path / "b.wav").unlink()
    with pytest.raises(UserError) as caught:
        list(data.batches([("a",), ("b",)], workers))
    message = str(caught.value)
    assert (
        message.startswith(f"{tmp_path / 'wav.scp'}: utterance 'b' cannot be read (") and "\n" not in message
    )


def test_audio_that_was_replaced_is_named(tmp_path):
    """Plain recordings are read where they lie; a shorter one is not what its transcript belongs to."""
    soundfile.write(tmp_path / "a.wav", np.zeros(799), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    (tmp_path / "speech_shape").write_text("a 800\n")
    data = SpeechData(tmp_path, tmp_path, draw, text=False)
    with pytest.raises(UserError, match=r"wav\.scp: utterance 'a' .*its length is 799 and was 800.*--force"):
        list(data.batches([("a",)], 0))


def test_large_tensors_travel_as_they_are_to_a_gpu():
    """An array inside the message for what is small, a file in shared memory for what is not."""
    tensors = {"small": torch.arange(4), "large": torch.arange(9)}
    made = _Compact(lambda items: (items, tensors), 4 * 8)(["a"])
    assert made[0] == ["a"] and isinstance(made[1]["small"], np.ndarray)
    assert made[1]["large"] is tensors["large"]
    ((names, back),) = _tensors(iter([made]))
    assert names == ["a"] and all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_suspects_are_those_with_a_value_that_is_not_finite():
    speech = torch.zeros(3, 5)
    batch = Batch(["a", "b", "c"], {"speech": speech, "speech_lengths": torch.tensor([5, 5, 5])})
    assert batch.suspects() == ["a", "b", "c"]
    speech[1, 2] = float("nan")
    assert batch.suspects() == ["b"]


def test_transcripts_that_are_not_there_are_told_before_training(toy_corpus, tmp_path):
    dump, stats = tmp_path / "dump", tmp_path / "stats"
    shutil.copytree(toy_corpus / "dump", dump)
    shutil.copytree(toy_corpus / "stats", stats)
    for file in (stats / "text_shape", dump / "text"):
        whole = file.read_text()
        file.write_text("".join(line + "\n" for line in whole.splitlines() if not line.startswith("utt03")))
        with pytest.raises(UserError, match=f"1 utterances are not in {file}, the first is 'utt03'"):
            SpeechData(dump, stats, draw)
        file.write_text(whole)
    (dump / "text").write_text(whole + "utt03 ab\n")
    with pytest.raises(UserError, match=f"{dump}: RuntimeError: utt03 is duplicated .*; run stage 3"):
        SpeechData(dump, stats, draw)


def test_what_ends_a_loader_is_found_behind_what_it_broke():
    """torch raises it in the main thread, perhaps inside a lock, whose own error then hides it."""
    with pytest.raises(UserError, match=r"^DataLoader worker \(pid 7\) is killed: a loader"):
        with loaders_watched():
            try:
                raise RuntimeError("DataLoader worker (pid 7) is killed. ")
            finally:
                raise RuntimeError("release unlocked lock")
    with pytest.raises(RuntimeError, match="^something else$"), loaders_watched():
        raise RuntimeError("something else")


#: Prints the number of its loader process once that is full of batches, then waits to be killed.
LOADING = """
import multiprocessing, sys, time
from espnet_ext.train.data import SpeechData

data = SpeechData(sys.argv[1], sys.argv[2], lambda _, d: {"speech": d["speech"]}, text=False)
names = tuple(sorted(data.lengths))[:8]
loaded = data.load(((1, names) for _ in range(50)), 1)
next(loaded)
print(multiprocessing.active_children()[0].pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_loader_ends_with_its_training(toy_corpus):
    """Killed with -9, the training says nothing to its loader, which is in the middle of a large message."""
    command = [sys.executable, "-c", LOADING, toy_corpus / "dump", toy_corpus / "stats"]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    loader = int(training.stdout.readline())
    time.sleep(2.0)
    training.kill()
    training.wait()
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{loader}") and time.monotonic() < end:
        time.sleep(0.2)
    assert not os.path.exists(f"/proc/{loader}")
