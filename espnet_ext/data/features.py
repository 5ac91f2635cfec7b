"""Stage 3: checked audio, or filterbanks, of a data directory.

``raw``: 16-bit mono FLAC at the wanted rate. A file that is so already is referenced where it lies.
``fbank``: Kaldi archives of 80 log-mel energies, not normalised.
Files are named by the utterance's index, never by its id. ``content`` is a checksum of what the scp file
points to: its paths stay the same when the audio behind them changes, and later stages must notice that.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from espnet_ext.data.audio import Audio, peak, resample, to_int16, write_flac
from espnet_ext.data.drops import Drops
from espnet_ext.data.fbank import MELS, fbank
from espnet_ext.data.kaldi import DataDir, write_speakers, write_table
from espnet_ext.data.outdir import output_dir
from espnet_ext.data.pool import ordered_map
from espnet_ext.data.recordings import Faults, Recording, Utterance, read_recordings, work_list
from espnet_ext.errors import UserError

FEATS_TYPES = ("raw", "fbank")
#: What to do with several channels: refuse them, average them, or take the first.
MULTICHANNEL = ("error", "mean", "first")
#: Float samples may lie beyond full scale. Peaks up to here are those of MP3 and mixing; above, it is said.
LOUD = 2.0


@dataclass(frozen=True)
class Options:
    """How features are made: rate in Hz, durations in seconds (ends excluded, as in ESPnet's recipes)."""

    feats_type: str = "raw"
    fs: int = 16000
    min_duration: float = 0.1
    max_duration: float = 20.0
    max_drop_fraction: float = 0.05
    multichannel: str = "error"
    nj: int = 1


@dataclass
class Part:
    """What one process reports about its recordings."""

    # id, value of the scp line, length, checksum of the samples or features
    rows: list[tuple[str, str, int, int]] = field(default_factory=list)
    drops: list[tuple[str, str, str]] = field(default_factory=list)  # id, reason, file:line
    notes: Counter = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)  # of recordings that cannot be read
    seconds: float = 0.0

    def note(self, what: str, where: str) -> None:
        """Count something worth saying, and remember where it occurred first."""
        self.notes[what] += 1
        self.firsts.setdefault(what, where)


def make_features(in_dir: Path, out_dir: Path, options: Options) -> str:
    """Read ``in_dir``, write ``out_dir`` whole or not at all.

    Returns:
        A summary for people.

    Raises:
        UserError: bad input, or more utterances dropped than ``max_drop_fraction``.
    """
    data = DataDir(in_dir)
    drops = Drops(str(in_dir))
    if data.text:
        for name, transcript in data.text.rows.items():
            if not transcript:
                drops.add(name, "empty transcript", data.text.where(name))
    work = list(enumerate(work_list(data)))
    total, faults, scp, lengths, checksums = Part(), Faults(), {}, {}, {}
    with output_dir(out_dir, "feats_type", in_dir) as temporary:
        function = partial(_make_part, folder=temporary, final=out_dir, options=options)
        for part in ordered_map(function, work, options.nj, f"features {in_dir}"):
            faults.add(part.faults)
            for name, reason, where in part.drops:
                if name not in drops:
                    drops.add(name, reason, where)
            for name, value, length, checksum in part.rows:
                scp[name], lengths[name], checksums[name] = value, length, checksum
            total.notes += part.notes
            total.firsts = part.firsts | total.firsts
            total.seconds += part.seconds
        faults.check()
        drops.check(len(data), options.max_drop_fraction)
        kept = [name for name in data if name not in drops]
        _write_tables(temporary, data, kept, scp, lengths, options.feats_type)
        drops.write(temporary / "dropped.txt")
        listed = "".join(f"{name} {checksums[name]}\n" for name in kept)
        digest = hashlib.sha256(f"{options.fs}\n{listed}".encode()).hexdigest()
        (temporary / "content").write_text(digest + "\n", encoding="utf-8")
    return "\n  ".join(
        [f"{in_dir} -> {out_dir}: {len(kept)} of {len(data)} utterances, {total.seconds / 3600:.2f} h read"]
        + [f"{what}: {count} (first: {total.firsts[what]})" for what, count in total.notes.items()]
        + list(drops.lines())
    )


def _write_tables(
    folder: Path, data: DataDir, kept: list[str], scp: dict, lengths: dict, feats_type: str
) -> None:
    scp_name, lengths_name = (
        ("wav.scp", "utt2num_samples") if feats_type == "raw" else ("feats.scp", "utt2num_frames")
    )
    write_table(folder / scp_name, {name: scp[name] for name in kept})
    write_table(folder / lengths_name, {name: lengths[name] for name in kept})
    if data.text:
        # One space between words: what training, decoding and scoring see is then the same.
        write_table(folder / "text", {name: " ".join(data.text.rows[name].split()) for name in kept})
    write_speakers(folder, {name: data.utt2spk.rows[name] for name in kept})
    (folder / "feats_type").write_text(feats_type + "\n", encoding="utf-8")


def _make_part(work: tuple[int, list[Recording]], folder: Path, final: Path, options: Options) -> Part:
    """Process some recordings into ``folder``, which will be renamed to ``final``."""
    number, recordings = work
    part = Part()
    kept = _kept_utterances(recordings, options, part)
    if options.feats_type == "raw":
        for recording, utterance, audio, samples in kept:
            value = recording.path
            if samples is not audio.samples or not audio.plain:
                value = _write_utterance(folder, final, utterance.index, samples, options.fs)
            part.rows.append((utterance.name, value, len(samples), _checksum(to_int16(samples))))
    else:
        _write_archive(folder, final, number, kept, options.fs, part)
    return part


def _kept_utterances(
    recordings: list[Recording], options: Options, part: Part
) -> Iterator[tuple[Recording, Utterance, Audio, np.ndarray]]:
    """Yield utterances of a good length as mono samples: (T,), or the file's own (T, 1) if unchanged."""
    for recording, audio, cuts in read_recordings(recordings, part.faults):
        part.seconds += len(audio.samples) / audio.rate
        for utterance, samples in cuts:
            duration = len(samples) / audio.rate
            if not options.min_duration < duration < options.max_duration:
                reason = (
                    f"not longer than {options.min_duration:g} s"
                    if duration <= options.min_duration
                    else f"not shorter than {options.max_duration:g} s"
                )
                part.drops.append((utterance.name, reason, utterance.where))
                continue
            if samples.dtype == np.float32 and peak(samples) > LOUD:
                part.note(f"peak above {LOUD:g} times full scale, cut off in copies", recording.where)
            if audio.channels > 1:
                samples = _one_channel(samples, recording, options.multichannel, part)
            if audio.rate != options.fs:
                part.note(f"resampled from {audio.rate} to {options.fs} Hz", recording.where)
                samples = resample(samples.reshape(len(samples)), audio.rate, options.fs)
            yield recording, utterance, audio, samples


def _one_channel(samples: np.ndarray, recording: Recording, how: str, part: Part) -> np.ndarray:
    channels = samples.shape[1]
    if how == "error":
        raise UserError(
            f"{recording.where}: {recording.path!r} has {channels} channels, expected one; "
            "choose with --multichannel mean (average them) or --multichannel first (the first one only)"
        )
    part.note(f"{how} of {channels} channels taken", recording.where)
    if how == "first":
        return samples[:, 0]
    return samples.mean(axis=1, dtype=np.float32) / np.float32(32768 if samples.dtype == np.int16 else 1)


def _write_utterance(folder: Path, final: Path, index: int, samples: np.ndarray, rate: int) -> str:
    """Write an utterance; return its path after the folder's renaming. A thousand files a folder."""
    relative = Path("audio") / f"{index // 1000:04d}" / f"{index:07d}.flac"
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    write_flac(folder / relative, samples.reshape(len(samples)), rate)
    return str(final / relative)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


def _write_archive(folder: Path, final: Path, number: int, kept: Iterator, rate: int, part: Part) -> None:
    """Write one Kaldi archive; an scp line is ``path:offset``, the offset being behind the id."""
    import kaldiio

    relative = Path("data") / f"feats.{number:05d}.ark"
    (folder / relative).parent.mkdir(exist_ok=True)
    with open(folder / relative, "wb") as handle:
        for _, utterance, _, samples in kept:
            features = fbank(to_int16(samples.reshape(len(samples))), rate)
            if len(features) == 0:
                part.drops.append((utterance.name, "shorter than one window of 25 ms", utterance.where))
                continue
            offset = handle.tell() + len(utterance.name.encode()) + 1
            kaldiio.save_ark(handle, {utterance.name: features})
            row = (utterance.name, f"{final / relative}:{offset}", len(features), _checksum(features))
            part.rows.append(row)
            assert features.shape[1] == MELS
