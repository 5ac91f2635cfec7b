"""Bringing frame rates and lengths of teachers and students together, without ever stretching.

Legend: T frames, E size of an embedding.
"""

import numpy as np
import torch

from espnet_ext.errors import UserError

REDUCTIONS = ("mean", "concat")


def reduction_factor(teacher_shift: int, student_shift: int, name: str) -> int:
    """Teacher frames that make one of the student's.

    Args:
        teacher_shift, student_shift: samples from one frame to the next, at one sample rate.
        name: of the teacher, for messages.

    Raises:
        UserError: it is no whole number.
    """
    factor = student_shift // teacher_shift
    if factor < 1 or factor * teacher_shift != student_shift:
        raise UserError(
            f"teacher {name}: a frame every {teacher_shift} samples, the student's are {student_shift} "
            "apart: no whole number of them makes one, and nothing is stretched; choose the student's "
            "hop_length and subsampling_factor so that their product is a multiple of the teacher's"
        )
    return factor


def reduce_rate(frames: torch.Tensor, factor: int, how: str) -> torch.Tensor:
    """Make one frame of each ``factor`` frames (T, E); what is left over at the end is cut off.

    Args:
        how: `mean` gives (T // factor, E), `concat` (T // factor, factor * E).

    Raises:
        UserError: another way.
    """
    if how not in REDUCTIONS:
        raise UserError(f"reduce {how}: expected {' or '.join(REDUCTIONS)}")
    whole = frames[: len(frames) // factor * factor].unflatten(0, (-1, factor))  # (T // factor, factor, E)
    return whole.mean(1) if how == "mean" else whole.flatten(1)


def finite(frames: np.ndarray, name: str) -> np.ndarray:
    """The frames (T, E) of a teacher, if all of them are numbers.

    Raises:
        UserError: there is a nan or an infinity among them.
    """
    if not np.isfinite(frames).all():
        raise UserError(
            f"teacher {name}: an embedding holds nan or infinity; are its weights damaged? Take another copy "
            "of it, or another layer"
        )
    return frames


def common_length(student: int, teacher: int, tolerance: int, utterance: str, name: str) -> int:
    """Frames that are compared: those both have.

    Raises:
        UserError: the lengths differ by more than the tolerance, so that the frames cannot be the same ones.
    """
    if abs(student - teacher) > tolerance:
        raise UserError(
            f"utterance {utterance!r}: the student has {student} frames, teacher {name} has {teacher}; more "
            f"than {tolerance} apart they are not of the same audio or frame rate: run stage 7 again"
        )
    return min(student, teacher)
