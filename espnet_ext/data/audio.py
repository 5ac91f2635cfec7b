"""Audio files in and out, through libsndfile. No file name ever reaches a shell or another program."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.data import riff
from espnet_ext.data.kaldi import no_such_audio
from espnet_ext.errors import UserError

#: Containers that are read in place; others (MP3, Ogg, ...) are slow to seek and inexact in length.
PLAIN_FORMATS = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "NIST", "AU", "RF64", "CAF"})
#: Frames from here on mean that the header does not know: the file was written through a pipe.
_UNKNOWN_FRAMES = 1 << 40
_AGAIN = "run the features stage again"
#: Float samples are parts of full scale. A peak like this is not loud: integers were written as floats.
_NO_PEAK = 100.0
_AT_MOST_16_BIT = frozenset({"PCM_16", "PCM_S8", "PCM_U8"})


@dataclass(frozen=True)
class Audio:
    """Decoded audio: ``samples`` (T, C) int16 or float32, ``rate`` in Hz, ``plain``: may be used in place."""

    samples: np.ndarray
    rate: int
    plain: bool

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.samples.shape[1]


def read_audio(path: str | os.PathLike, where: str) -> Audio:
    """Decode a whole file, so that a file that is cut short is found now and not after hours of training.

    Args:
        path: the file.
        where: ``file:line`` that names it, for messages.

    Raises:
        UserError: absent, empty, not audio, cut short, or holding samples that are NaN, infinite or far
            beyond full scale.
    """
    if not os.path.isfile(path):
        raise UserError(no_such_audio(str(path), where))
    if os.path.getsize(path) == 0:
        raise UserError(f"{where}: audio file {str(path)!r} is empty (0 bytes)")
    try:
        with soundfile.SoundFile(os.fspath(path)) as handle:
            samples = _decode(handle)
            audio = Audio(samples, handle.samplerate, handle.format in PLAIN_FORMATS)
            # The length of a compressed stream is an estimate, and unknown lengths are written as huge ones.
            expected = handle.frames if audio.plain and handle.frames < _UNKNOWN_FRAMES else 0
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(
            f"{where}: {str(path)!r} cannot be decoded as audio ({str(error).rsplit(': ', 1)[-1].strip()}); "
            "is it audio, and complete? Mend it, or leave it out of the set"
        ) from None
    except PermissionError:
        raise UserError(f"{where}: audio file {str(path)!r} may not be read (permission denied)") from None
    if len(samples) < expected or riff.is_cut_short(path):
        raise UserError(
            f"{where}: {str(path)!r} is cut short: its header promises more audio than the file holds"
        )
    if samples.dtype == np.float32 and not np.isfinite(samples).all():
        raise UserError(f"{where}: {str(path)!r} holds samples that are not finite numbers (NaN or infinity)")
    if samples.dtype == np.float32 and (loudest := peak(samples)) > _NO_PEAK:
        raise UserError(
            f"{where}: {str(path)!r} holds floats up to {loudest:.0f}, expected -1 to 1; are they 16-bit "
            "numbers? divide them by 32768 and write the file again"
        )
    return audio


def _decode(handle: soundfile.SoundFile) -> np.ndarray:
    """All samples (T, C), as 16-bit integers where that loses nothing: they are read thrice as fast."""
    return handle.read(dtype="int16" if handle.subtype in _AT_MOST_16_BIT else "float32", always_2d=True)


def read_checked(path: str, length: int, where: str) -> np.ndarray:
    """Samples (T,), int16 or float32, of a mono file of ``length`` that ``read_audio`` has found good before.

    Raises:
        UserError: the file is not as it was; ``where`` is the file:line that names it.
    """
    try:
        samples = riff.read_plain(path, length)
        if samples is not None:
            return samples
        with soundfile.SoundFile(path) as handle:
            samples = _decode(handle)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{where}: {path!r} cannot be read any more ({error}); {_AGAIN}") from None
    if samples.shape != (length, 1):
        raise UserError(
            f"{where}: {path!r} had {length} samples when features were made, now (samples, channels) are "
            f"{samples.shape}; {_AGAIN}"
        )
    return samples[:, 0]


def peak(samples: np.ndarray) -> float:
    """The largest absolute value; 0 where there are no samples."""
    return float(max(samples.max(), -samples.min())) if samples.size else 0.0


def to_float(samples: np.ndarray) -> np.ndarray:
    """Samples as float32 in [-1, 1)."""
    return samples.astype(np.float32) * np.float32(1 / 32768) if samples.dtype == np.int16 else samples


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples as 16-bit integers, rounded and clipped."""
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Mono samples (T,) at ``rate`` to float32 (T',) at ``target`` Hz, high quality (soxr)."""
    import soxr

    return soxr.resample(to_float(samples), rate, target, quality="HQ")


def write_flac(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write mono samples (T,), or several channels (T, C), as 16-bit FLAC."""
    # Encoded in memory first: libsndfile does not report a disk that is full when it closes a file.
    encoded = io.BytesIO()
    soundfile.write(encoded, to_int16(samples), rate, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getbuffer())
