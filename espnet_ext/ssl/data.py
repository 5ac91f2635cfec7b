"""Speech without transcripts as a training stream."""

from pathlib import Path

import soundfile

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines

#: How many files of a set are looked at for their sample rate, evenly spread: a second or less.
_LOOKED_AT = 2000


def check_unlabelled(data_dir: str, stats_dir: str, fs: int | None) -> None:
    """Refuse unlabelled speech that a training could not use, or would misuse without a word.

    Args:
        data_dir: dumped directory (stage 3); needs no `text`.
        stats_dir: its lengths (stage 5).
        fs: sample rate of the recogniser's front end in Hz; None if it reads stored features.

    Raises:
        UserError: files are absent or empty, audio where features are expected or the other way round, or
            audio of another sample rate.
    """
    folder, shapes = Path(data_dir), Path(stats_dir) / "speech_shape"
    wanted, other = ("wav.scp", "feats.scp") if fs is not None else ("feats.scp", "wav.scp")
    if not (folder / wanted).exists():
        found = f"there is {other}" if (folder / other).exists() else "run the stages from features on"
        raise UserError(f"{folder / wanted}: no such file, but the model reads it ({found})")
    if not shapes.exists():
        raise UserError(f"{shapes}: no such file; run the stage stats for the unlabelled set")
    lines = list(read_lines(folder / wanted))
    if not lines or not shapes.read_text(encoding="utf-8").strip():
        raise UserError(
            f"{folder}: the unlabelled set is empty; expected lines `<utterance> <path>` in {wanted} and "
            f"their lengths in {shapes}: check the set in data/, and run the stages from features on"
        )
    if fs is None:
        return
    for number, line in lines[:: -(-len(lines) // _LOOKED_AT)]:
        utterance, _, path = line.partition(" ")
        try:
            rate = soundfile.info(path.strip()).samplerate
        except (soundfile.SoundFileError, TypeError) as error:
            raise UserError(
                f"{folder / wanted}:{number}: {path}: cannot be read: {error}; was it moved or changed? run "
                "the stages from features on again"
            ) from None
        if rate != fs:
            raise UserError(
                f"{folder / wanted}:{number}: utterance {utterance!r} has {rate} Hz, the model expects "
                f"{fs} Hz (frontend_conf fs); run the stage features, which resamples"
            )
