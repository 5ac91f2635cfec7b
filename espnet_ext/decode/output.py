"""Files that a decoding leaves, and how those of parallel jobs become one.

``text``, ``token`` and ``scores`` hold one line an utterance, sorted by id; an empty hypothesis is an id
alone. ``text_nbest`` (where more than one hypothesis was asked for) holds ``<id> <rank> <score> <text>``.
``decode.json`` says how it was made; it is written last and taken away first, so that where it stands the
other files belong to it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.data.kaldi import read_table
from espnet_ext.decode.hypothesis import Hypothesis
from espnet_ext.decode.recogniser import TokenText
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text

SUMMARY = "decode.json"
TABLES = ("text", "token", "scores")
NBEST = "text_nbest"


def part_dir(out_dir: Path, job: int, num_jobs: int) -> Path:
    """Where a parallel job writes."""
    return out_dir / f"parts{num_jobs}" / str(job)


def write_results(
    out_dir: Path, hypotheses: Mapping[str, list[Hypothesis]], text: TokenText, nbest: int, summary: dict
) -> None:
    """Write the hypotheses of all utterances and the summary."""
    best = {name: found[0] for name, found in hypotheses.items()}
    tables = {
        "text": {name: text.text(each.tokens) for name, each in best.items()},
        "token": {name: " ".join(text.tokens(each.tokens)) for name, each in best.items()},
        "scores": {name: f"{each.score:.6f}" for name, each in best.items()},
    }
    lines = {
        name: [f"{each.score:.6f} {text.text(each.tokens)}" for each in found]
        for name, found in hypotheses.items()
    }
    _write(out_dir, tables, lines if nbest > 1 else None, summary)


def _write(out_dir: Path, tables: dict, nbest: dict[str, list[str]] | None, summary: dict) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / SUMMARY).unlink(missing_ok=True)
    for name, rows in tables.items():
        atomic_write_text(out_dir / name, "".join(f"{key} {rows[key]}\n" for key in sorted(rows)))
    if nbest is None:
        (out_dir / NBEST).unlink(missing_ok=True)
    else:
        with atomic_path(out_dir / NBEST) as path, open(path, "w", encoding="utf-8") as handle:
            for key in sorted(nbest):
                handle.writelines(f"{key} {rank} {line}\n" for rank, line in enumerate(nbest[key], 1))
    atomic_write_text(out_dir / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def merge_parts(out_dir: Path, num_jobs: int) -> dict:
    """Make one result of those of ``num_jobs`` jobs.

    Returns:
        The merged summary; times are sums over the jobs.

    Raises:
        UserError: a job has not finished, or the jobs differ in model, data or options.
    """
    tables: dict[str, dict[str, str]] = {name: {} for name in TABLES}
    nbest: dict[str, list[str]] = {}
    merged: dict = {}
    for job in range(1, num_jobs + 1):
        folder = part_dir(out_dir, job, num_jobs)
        if not (folder / SUMMARY).exists():
            raise UserError(
                f"{folder / SUMMARY}: no such file; decode with --job {job} --num_jobs {num_jobs} first"
            )
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        merged = _add(merged, summary, folder / SUMMARY) if merged else summary
        if summary["utterances"]:
            for name in TABLES:
                tables[name].update(read_table(folder / name, empty_values=True).rows)
        if (folder / NBEST).exists():
            for line in (folder / NBEST).read_text(encoding="utf-8").splitlines():
                key, _, rest = line.split(" ", 2)
                nbest.setdefault(key, []).append(rest)
    merged["rtf"] = _rtf(merged)
    merged["jobs"] = num_jobs
    _write(out_dir, tables, nbest or None, merged)
    return merged


def _add(one: dict, other: dict, where: Path) -> dict:
    for name in ("model_sha256", "options", "data_dir"):
        if one[name] != other[name]:
            raise UserError(f"{where}: {name} differs from that of job 1; decode all parts again")
    sums = ("utterances", "audio_seconds", "load_seconds", "decode_seconds", "hit_length_limit", "empty")
    return {**one, **{name: round(one[name] + other[name], 3) for name in sums}}


def _rtf(summary: dict) -> float:
    return round(summary["decode_seconds"] / max(summary["audio_seconds"], 1e-9), 5)


def summarise(hypotheses: Mapping[str, list[Hypothesis]], audio: float, load: float, decode: float) -> dict:
    """Counts and times for ``decode.json``: seconds of audio, of loading the model and of decoding."""
    best = [found[0] for found in hypotheses.values()]
    summary = {
        "utterances": len(best),
        "audio_seconds": round(audio, 3),
        "load_seconds": round(load, 3),
        "decode_seconds": round(decode, 3),
        "hit_length_limit": sum(each.truncated for each in best),
        "empty": sum(not each.tokens for each in best),
    }
    return {**summary, "rtf": _rtf(summary)}
