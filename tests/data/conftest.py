"""Tiny corpora of tones, made where the test runs."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000
SENTENCES = ("one two three", "four five", "two red cats", "green dogs sleep", "five blue birds sing")


def tone(seconds: float, rate: int = RATE, hertz: float = 300.0, seed: int = 0) -> np.ndarray:
    """A tone in some noise, (T,) float64."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return 0.3 * np.sin(2 * np.pi * hertz * time) + 0.02 * noise


class Corpus:
    """A data directory in the making: change ``wav``, ``text``, ``utt2spk`` or ``segments``, then write."""

    tone = staticmethod(tone)

    def __init__(self, folder: Path, count: int):
        self.path = folder / "data" / "set one"
        self.audio = folder / "my audio"
        self.audio.mkdir(parents=True, exist_ok=True)
        self.names = [f"utt-{number:03d}" for number in range(count)]
        self.wav, self.text, self.utt2spk, self.segments = {}, {}, {}, {}
        for number, name in enumerate(self.names):
            self.add(name, tone(0.6 + 0.05 * (number % 7), hertz=200 + 40 * number, seed=number))

    def add(self, name: str, samples: np.ndarray, rate: int = RATE, **how) -> Path:
        """Add an utterance with audio of its own."""
        path = self.audio / f"{len(self.wav)} tone.wav"
        soundfile.write(path, samples, rate, **({"subtype": "PCM_16"} | how))
        self.wav[name] = path
        self.text[name] = SENTENCES[len(self.text) % len(SENTENCES)]
        self.utt2spk[name] = f"speaker{len(self.utt2spk) % 2}"
        return path

    def write(self) -> Path:
        """Write the directory."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("wav", "text", "utt2spk", "segments"):
            if rows := getattr(self, name):
                lines = (f"{key} {rows[key]}".rstrip() + "\n" for key in sorted(rows))
                self.file(name).write_text("".join(lines), encoding="utf-8")
        return self.path

    def file(self, name: str) -> Path:
        """The path of one of the directory's files."""
        return self.path / ("wav.scp" if name == "wav" else name)


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Corpus:
    """A corpus of six utterances; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    return Corpus(tmp_path, 6)


@pytest.fixture
def fails(capsys):
    """Run a main with arguments, assert that it fails, and return its one error line."""

    def run(main, *arguments) -> str:
        assert main([str(argument) for argument in arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return run
