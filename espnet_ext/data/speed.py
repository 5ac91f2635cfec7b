"""Stage 2: copies of a set at other speeds, as Kaldi's and ESPnet's recipes make them.

sox is fed samples and returns samples: no file name and no id is ever part of its command line, where a name
could be an option, a pattern or a command.
"""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np

from espnet_ext.data.audio import to_float, write_flac
from espnet_ext.data.kaldi import DataDir, write_speakers, write_table
from espnet_ext.data.outdir import output_dir
from espnet_ext.data.pool import ordered_map
from espnet_ext.data.recordings import Faults, Recording, read_recordings, work_list
from espnet_ext.errors import UserError

#: Marks a directory as written by this stage.
MARKER = "speeds"
_MAX_SPEED = 4.0


def change_speed(samples: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """Play samples faster (tempo and pitch) with sox.

    Args:
        samples: (T, C) int16 or float32.
        rate: sample rate in Hz, which the result has too.
        factor: 1.1 is ten per cent faster.

    Returns:
        (about T / factor, C) float32.
    """
    channels = samples.shape[1]
    raw = ["-t", "raw", "-e", "floating-point", "-b", "32", "-L", "-r", str(rate), "-c", str(channels), "-"]
    done = subprocess.run(
        ["sox", "--no-dither", "-V1", *raw, *raw, "speed", repr(factor), "rate", str(rate)],
        input=to_float(samples).astype("<f4").tobytes(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(
            f"sox failed with status {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
        )
    return np.frombuffer(done.stdout, "<f4").reshape(-1, channels)


def perturb(in_dir: Path, out_dir: Path, speeds: list[float], nj: int) -> str:
    """Write the utterances of ``in_dir`` at every speed, ids and speakers prefixed ``sp<speed>-``.

    At speed 1.0 nothing is prefixed, and a recording that is one utterance is referenced where it lies.

    Returns:
        A summary for people.

    Raises:
        UserError: bad input or speeds, or sox is missing.
    """
    _check_speeds(speeds)
    data = DataDir(in_dir)
    wav, text, utt2spk = {}, {}, {}
    for speed in speeds:
        for name, speaker in data.utt2spk.rows.items():
            new = prefix(speed) + name
            if new in utt2spk:
                raise UserError(
                    f"{data.utt2spk.where(name)}: the perturbed id {new!r} exists already in {in_dir}"
                )
            utt2spk[new] = prefix(speed) + speaker
            if data.text:
                text[new] = data.text.rows[name]
    work = [(speed, part) for speed in speeds for part in work_list(data)]
    with output_dir(out_dir, MARKER, in_dir) as temporary:
        function = partial(_perturb_part, folder=temporary, final=out_dir)
        faults = Faults()
        for rows, unread in ordered_map(function, work, nj, f"speed {in_dir}"):
            faults.add(unread)
            wav.update(rows)
        faults.check()
        write_table(temporary / "wav.scp", wav)
        if data.text:
            write_table(temporary / "text", text)
        write_speakers(temporary, utt2spk)
        (temporary / MARKER).write_text(" ".join(map(str, speeds)) + "\n", encoding="utf-8")
    return f"{in_dir} -> {out_dir}: {len(data)} utterances at speeds {speeds}: {len(wav)} utterances"


def prefix(speed: float) -> str:
    """What ids get at a speed.

    >>> prefix(0.9), prefix(1.0)
    ('sp0.9-', '')
    """
    return "" if speed == 1.0 else f"sp{speed:g}-"


def _check_speeds(speeds: list[float]) -> None:
    for speed in speeds:
        if not 1 / _MAX_SPEED <= speed <= _MAX_SPEED:
            raise UserError(
                f"--speeds {speed:g}: expected factors between {1 / _MAX_SPEED:g} and {_MAX_SPEED:g}"
            )
    if len(set(map(prefix, speeds))) < len(speeds):
        raise UserError(f"--speeds {' '.join(map(str, speeds))}: a factor occurs twice")
    if any(prefix(speed) for speed in speeds) and shutil.which("sox") is None:
        raise UserError("speed perturbation needs sox, which is not installed; try `apt-get install sox`")


def _perturb_part(
    work: tuple[float, list[Recording]], folder: Path, final: Path
) -> tuple[dict[str, str], list[str]]:
    """Perturb some recordings; return their ``wav.scp`` rows, and messages of those that cannot be read."""
    speed, recordings = work
    rows, unread = {}, []
    for recording, audio, cuts in read_recordings(recordings, unread):
        for utterance, samples in cuts:
            if speed == 1.0 and samples is audio.samples:
                rows[utterance.name] = recording.path
                continue
            relative = (
                Path("audio")
                / f"{speed:g}"
                / f"{utterance.index // 1000:04d}"
                / f"{utterance.index:07d}.flac"
            )
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            if speed != 1.0 and len(samples):
                samples = change_speed(samples, audio.rate, speed)
            write_flac(folder / relative, samples, audio.rate)
            rows[prefix(speed) + utterance.name] = str(final / relative)
    return rows, unread
