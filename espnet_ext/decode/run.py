"""Decode one set after another, or one set in several ways, with one loaded model.

Starting Python, torch and ESPnet and loading a model takes seconds, as much as a small test set does.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_ext.asr.load import load_exported
from espnet_ext.data.lengths import sample_rate
from espnet_ext.decode.batches import in_halves, make_batches
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.output import part_dir, summarise, write_results
from espnet_ext.decode.recogniser import Recogniser, TokenText
from espnet_ext.decode.source import Source
from espnet_ext.errors import UserError
from espnet_ext.progress import progress


@dataclass(frozen=True)
class Task:
    """What to decode: a dumped set, how, where the result goes, and the command that does only this."""

    data_dir: Path
    options: DecodeOptions
    out_dir: Path
    command: str


def decode_all(
    model_dir: Path,
    tasks: Sequence[Task],
    facts: Mapping,
    *,
    gpu: bool = False,
    threads: int = 1,
    job: int = 1,
    num_jobs: int = 1,
) -> Iterator[tuple[Path, dict]]:
    """Decode the tasks in order; each one's files are written before the next one begins.

    Args:
        model_dir: an exported model.
        tasks: all are checked before the first is decoded.
        facts: what else the summaries say, such as versions.
        gpu: decode on a GPU.
        threads: CPU threads.
        job: which part of every set to decode, from 1.
        num_jobs: number of parts.

    Yields:
        The folder written to, and its summary. The seconds of loading the model are counted to the first.

    Raises:
        UserError: no GPU, a model or a set that cannot be read, or a model that lacks what a method needs.
    """
    start = time.monotonic()
    if gpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no GPU here; decode with --ngpu 0")
    torch.set_num_threads(threads)
    model = load_exported(model_dir, device="cuda" if gpu else "cpu")
    config = model.export_config
    text = TokenText(model_dir, config)
    facts = {
        **facts,
        "model_dir": str(model_dir),
        "model_sha256": hashlib.sha256((model_dir / "model.pth").read_bytes()).hexdigest(),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": threads,
        "jobs": 1,
    }
    prepared = [
        (
            task,
            Source(task.data_dir, _sample_rate(config), config.get("input_size")),
            Recogniser(model, task.options),
        )
        for task in tasks
    ]
    loaded = time.monotonic() - start
    for task, source, recogniser in prepared:
        utterances = source.utterances(job, num_jobs)
        batches = make_batches(utterances, task.options.batch_seconds)
        out_dir = task.out_dir if num_jobs == 1 else part_dir(task.out_dir, job, num_jobs)
        begun = time.monotonic()
        results = progress(_results(batches, source, recogniser), len(utterances), f"decode {out_dir}", "utt")
        found = {utterance.name: hypotheses for utterance, hypotheses in results}
        seconds = time.monotonic() - begun
        summary = {
            **summarise(found, sum(each.seconds for each in utterances), loaded, seconds),
            "options": task.options.used(),
            "data_dir": str(task.data_dir),
            "command": task.command,
            **facts,
        }
        write_results(out_dir, found, text, task.options.nbest, summary)
        loaded = 0.0
        yield out_dir, summary


def _results(batches: list, source: Source, recognise: Callable) -> Iterator[tuple]:
    """(utterance, its hypotheses) of all batches."""
    for batch in batches:
        found = in_halves(batch, lambda part: recognise([source.read(each.name) for each in part]))
        yield from zip(batch, found, strict=True)


def _sample_rate(config: dict) -> int:
    """Sample rate in Hz that the model's front end was built for (ESPnet's default: 16k)."""
    return sample_rate((config.get("frontend_conf") or {}).get("fs", 16000))
