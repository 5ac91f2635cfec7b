"""Stage 5: lengths, the utterances CTC can align, and normalisation statistics, in one pass without ESPnet.

Lengths of speech come from stage 3; only the feature statistics need the audio. Sums are formed over parts of
a fixed number of utterances and added in order, so they do not depend on the number of processes.
"""

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.data.audio import read_checked
from espnet_ext.data.drops import Drops
from espnet_ext.data.fbank import MELS
from espnet_ext.data.kaldi import Table, read_table, write_table
from espnet_ext.data.lengths import ctc_frames_needed, encoder_frames
from espnet_ext.data.logmel import LogMel
from espnet_ext.data.outdir import output_dir
from espnet_ext.data.pool import ordered_map, parts
from espnet_ext.data.tokens import Tokenizer, encode_table
from espnet_ext.errors import UserError

_PART = 100
#: ESPnet's encoders that begin with a subsampling layer, conv2d if the configuration does not say which.
_LAYERED_ENCODERS = ("transformer", "conformer", "branchformer", "e_branchformer")


@dataclass(frozen=True)
class Options:
    """Limits and extent of the statistics."""

    feats_stats: bool = True
    max_hours: float | None = None
    max_drop_fraction: float = 0.05
    max_outside_fraction: float = 0.05
    nj: int = 1


@dataclass(frozen=True)
class Model:
    """What the statistics need to know of a training configuration."""

    frontend_conf: dict
    input_layer: str

    @classmethod
    def read(cls, config: Path | None) -> "Model":
        """Read ESPnet's training YAML; without one, ESPnet's defaults hold."""
        conf = {}
        if config is not None:
            import yaml

            try:
                conf = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
            except FileNotFoundError:
                raise UserError(f"{config}: no such training configuration (--config)") from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{config}: is not YAML: {' '.join(str(error).split())}") from None
        if conf.get("frontend", "default") not in ("default", None):
            raise UserError(
                f"{config}: the statistics of frontend {conf['frontend']!r} are not supported, only those of "
                "the default frontend; use `normalize: utterance_mvn` and `--feats_stats false`"
            )
        # Of an encoder without this layer only what no encoder could align is dropped.
        layered = conf.get("encoder", "e_branchformer") in _LAYERED_ENCODERS
        default = "conv2d" if layered else "linear"
        encoder_conf = conf.get("encoder_conf") or {}
        return cls(conf.get("frontend_conf") or {}, encoder_conf.get("input_layer", default))


def collect_stats(
    data_dir: Path, out_dir: Path, model: Model, tokenizer: Tokenizer | None, options: Options
) -> str:
    """Write ``speech_shape``, ``text_shape``, ``keys``, ``dropped.txt`` and ``feats_stats.npz`` of a set.

    Args:
        data_dir: directory written by stage 3.
        out_dir: directory to write, whole or not at all.
        model: what the features and the encoder are.
        tokenizer: for the lengths of the transcripts; needed if the set has any.
        options: limits.

    Returns:
        A summary for people.

    Raises:
        UserError: bad input, too many utterances that CTC cannot align, or too much text without tokens.
    """
    raw = not (data_dir / "feats.scp").exists()
    lengths = _read_lengths(data_dir / ("utt2num_samples" if raw else "utt2num_frames"))
    scp = read_table(data_dir / ("wav.scp" if raw else "feats.scp"), value="path")
    if scp.rows.keys() != lengths.keys():
        raise UserError(
            f"{scp.path} and the lengths beside it list different utterances; run the features stage again"
        )
    logmel = LogMel(**model.frontend_conf)
    if raw:
        _check_rate(scp, logmel.fs)
    frames = {key: logmel.frames(length) if raw else length for key, length in lengths.items()}
    drops = Drops(str(data_dir))
    if raw:
        for key, length in lengths.items():
            if length < logmel.least_samples:
                drops.add(key, "shorter than half an analysis window", scp.where(key))
    tokens, notes = _count_tokens(data_dir, tokenizer, frames, model.input_layer, drops, options)
    drops.check(len(scp.rows), options.max_drop_fraction)
    kept = [key for key in scp.rows if key not in drops]
    with output_dir(out_dir, "speech_shape", data_dir) as temporary:
        write_table(
            temporary / "speech_shape",
            {key: lengths[key] if raw else f"{lengths[key]},{MELS}" for key in kept},
        )
        if tokens is not None:
            write_table(temporary / "text_shape", {key: f"{tokens[key]},{len(tokenizer)}" for key in kept})
        (temporary / "keys").write_text("".join(f"{key}\n" for key in kept), encoding="utf-8")
        drops.write(temporary / "dropped.txt")
        if options.feats_stats:
            chosen = _choose(kept, lengths, logmel.fs if raw else 100, options.max_hours)
            sums = _feature_sums(
                scp, chosen, lengths, logmel if raw else None, options.nj, f"stats {data_dir}"
            )
            np.savez(temporary / "feats_stats.npz", **sums)
            notes.append(f"feature statistics of {len(chosen)} utterances, {sums['count']} frames")
    head = f"{data_dir} -> {out_dir}: {len(kept)} of {len(scp.rows)} utterances"
    return "\n  ".join([head, *notes, *drops.lines()])


def _check_rate(scp: Table, fs: int) -> None:
    """The mel filters of the model must be made for the audio's rate; nothing later would notice."""
    key, path = next(iter(scp.rows.items()))
    found = soundfile.info(path).samplerate
    if found != fs:
        raise UserError(
            f"{scp.where(key)}: audio of {found} Hz, but the training configuration says frontend_conf fs: "
            f"{fs}; set it to {found} there, or give --fs {fs} to the features stage"
        )


def _read_lengths(path: Path) -> dict[str, int]:
    if not path.exists():
        raise UserError(f"{path}: no such file; --data_dir must be a directory written by the features stage")
    table = read_table(path, value="length")
    for key, value in table.rows.items():
        if not value.isdecimal():
            raise UserError(f"{table.where(key)}: the length {value!r} of {key!r} is not a number")
    return {key: int(value) for key, value in table.rows.items()}


def _count_tokens(
    data_dir: Path,
    tokenizer: Tokenizer | None,
    frames: dict,
    input_layer: str,
    drops: Drops,
    options: Options,
) -> tuple[dict[str, int] | None, list[str]]:
    """Tokens per utterance (None for unlabelled sets); drops what CTC cannot align."""
    path = data_dir / "text"
    if not path.exists():
        return None, ["no text: an unlabelled set"]
    if tokenizer is None:
        raise UserError(f"{path}: the set has transcripts, so --token_list is needed")
    table = read_table(path, value="transcript")
    if table.rows.keys() != frames.keys():
        raise UserError(
            f"{path} and the audio beside it list different utterances; run the features stage again"
        )
    encoded = encode_table(tokenizer, table)
    if encoded.outside > options.max_outside_fraction:
        raise UserError(
            f"{encoded.report}; the limit is {100 * options.max_outside_fraction:g} % of the sentences "
            "(--max_outside_fraction); clean the transcripts, or learn the tokens from these as well"
        )
    for key, tokens in encoded.numbers.items():
        if not tokens:
            drops.add(key, "no tokens", table.where(key))
        elif key not in drops and encoder_frames(frames[key], input_layer) < ctc_frames_needed(tokens):
            drops.add(key, "too few encoder frames for CTC to align its tokens", table.where(key))
    counts = {key: len(tokens) for key, tokens in encoded.numbers.items()}
    return counts, [encoded.report] if encoded.outside else []


def _choose(kept: list[str], lengths: dict[str, int], per_second: int, max_hours: float | None) -> list[str]:
    """All utterances, or a random choice (always the same) of at most ``max_hours``."""
    if max_hours is None:
        return kept
    chosen, left = [], max_hours * 3600 * per_second
    for key in random.Random(0).sample(kept, len(kept)):
        left -= lengths[key]
        if left < 0 and chosen:
            break
        chosen.append(key)
    return sorted(chosen)


def _feature_sums(
    scp: Table, keys: list[str], lengths: dict[str, int], logmel: LogMel | None, nj: int, desc: str
) -> dict[str, np.ndarray]:
    """ESPnet's ``count``, ``sum`` (D,) and ``sum_square`` (D,) over all frames of the utterances."""
    work = parts([(scp.rows[key], lengths[key], scp.where(key)) for key in keys], _PART)
    count, total, squares = 0, 0.0, 0.0
    for part in ordered_map(partial(_sum_part, logmel=logmel), work, nj, desc):
        count, total, squares = count + part[0], total + part[1], squares + part[2]
    return {"count": np.int64(count), "sum": np.float32(total), "sum_square": np.float32(squares)}


def _sum_part(work: list[tuple[str, int, str]], logmel: LogMel | None) -> tuple[int, np.ndarray, np.ndarray]:
    """Sums over utterances given as (path, length, file:line); Kaldi matrices where ``logmel`` is None."""
    count, total, squares = 0, 0.0, 0.0
    for path, length, where in work:
        for features in (
            logmel.chunks(read_checked(path, length, where)) if logmel else [_read_matrix(path, where)]
        ):
            count += len(features)
            # Float32 within a chunk, double between chunks: fast, and exact enough for any number of hours.
            # A product with ones is the fastest sum over frames.
            ones = np.ones(len(features), np.float32)
            total = total + (ones @ features).astype(np.float64)
            squares = squares + (ones @ (features * features)).astype(np.float64)
    return count, total, squares


def _read_matrix(path: str, where: str) -> np.ndarray:
    import kaldiio

    try:
        return kaldiio.load_mat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path!r} cannot be read ({error}); run the features stage again") from None
