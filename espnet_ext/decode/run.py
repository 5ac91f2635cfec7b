"""Decode one set after another, or one set in several ways, with one loaded model.

Starting Python, torch and ESPnet and loading a model takes seconds, as much as a small test set does.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_ext.data.lengths import sample_rate
from espnet_ext.decode.batches import in_halves, make_batches
from espnet_ext.decode.ensemble import describe_models, folders_of, load_models
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
    model_dir: Path | Sequence[Path],
    tasks: Sequence[Task],
    facts: Mapping,
    *,
    lm_dir: Path | None = None,
    gpu: bool = False,
    threads: int = 1,
    job: int = 1,
    num_jobs: int = 1,
) -> Iterator[tuple[Path, dict]]:
    """Decode the tasks in order; each one's files are written before the next one begins.

    Args:
        model_dir: an exported model, or several that decode together.
        tasks: all are checked before the first is decoded.
        facts: what else the summaries say, such as versions.
        lm_dir: a language model (`espnet_ext.lm.load`), for tasks that give it a weight.
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
    model, lm, text = load(
        model_dir, lm_dir, any(task.options.lm_weight > 0 for task in tasks), gpu=gpu, threads=threads
    )
    config = model.export_config
    facts = {
        **facts,
        **describe_models(model_dir),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": threads,
        "jobs": 1,
    }
    prepared = [
        (
            task,
            Source(task.data_dir, model_rate(config), config.get("input_size")),
            Recogniser(model, task.options, lm),
        )
        for task in tasks
    ]
    lm_sha256 = sha256(lm_dir / "model.pth") if lm is not None else None
    loaded = time.monotonic() - start
    for task, source, recogniser in prepared:
        utterances = source.utterances(job, num_jobs)
        batches = make_batches(utterances, task.options.batch_seconds)
        out_dir = task.out_dir if num_jobs == 1 else part_dir(task.out_dir, job, num_jobs)
        begun = time.monotonic()
        results = progress(
            results_of(batches, source, recogniser), len(utterances), f"decode {out_dir}", "utt"
        )
        found = {utterance.name: hypotheses for utterance, hypotheses in results}
        seconds = time.monotonic() - begun
        summary = {
            **summarise(found, sum(each.seconds for each in utterances), loaded, seconds),
            "options": task.options.used(),
            **({"lm_dir": str(lm_dir), "lm_sha256": lm_sha256} if task.options.lm_weight > 0 else {}),
            "data_dir": str(task.data_dir),
            "command": task.command,
            **facts,
        }
        write_results(out_dir, found, text, task.options.nbest, summary)
        loaded = 0.0
        yield out_dir, summary


def load(
    model_dir: Path | Sequence[Path], lm_dir: Path | None, with_lm: bool, *, gpu: bool, threads: int
) -> tuple[torch.nn.Module, torch.nn.Module | None, TokenText]:
    """Load a recogniser, the language model if it is wanted and there is one, and what makes text of tokens.

    Raises:
        UserError: no GPU, or a model that cannot be read, or a language model with other tokens.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no GPU here; decode with --ngpu 0")
    torch.set_num_threads(threads)
    device = "cuda" if gpu else "cpu"
    model = load_models(model_dir, device)
    text = TokenText(folders_of(model_dir)[0], model.export_config)
    lm = None
    if with_lm and lm_dir is not None:
        from espnet_ext.lm.load import load_lm

        lm = load_lm(lm_dir, text.token_list, device)
    return model, lm, text


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results_of(batches: list, source: Source, recognise: Callable) -> Iterator[tuple]:
    """(utterance, what ``recognise`` makes of it) of all batches."""
    for batch in batches:
        found = in_halves(batch, lambda part: recognise([source.read(each.name) for each in part]))
        yield from zip(batch, found, strict=True)


def model_rate(config: dict) -> int:
    """Sample rate in Hz that the model's front end was built for (ESPnet's default: 16k)."""
    return sample_rate((config.get("frontend_conf") or {}).get("fs", 16000))
