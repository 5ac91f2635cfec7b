"""Whether a system and its control were given the same: what `controls.yaml` promises, held to 1 %.

Reads ``train_summary.json`` of both. What a pair does not promise is not compared.
"""

from collections.abc import Iterable, Mapping

#: Relative difference that still counts as equal.
TOLERANCE = 0.01


def amount(summary: Mapping, name: str) -> float | None:
    """How much of something a training used; None where its summary does not say.

    ``encoder_frames`` are frames read of all streams by one model, those of a ``stage1`` whose encoder it
    started from included; ``compute`` multiplies them by the parameters of all models that read them (the
    peers of mutual learning), so that passes of a model count by its size. ``updates`` are steps where
    nothing else is recorded.

    >>> amount({"frames": {"labelled": 10}, "parameters": 3}, "compute")
    30
    >>> amount({"frames": {"labelled": 10}, "stage1": {"frames": {"labelled": 5}}}, "encoder_frames")
    15
    """
    if name in summary:
        return summary[name]
    batches, frames = summary.get("batches") or {}, summary.get("frames") or {}
    if name == "updates":
        return summary.get("steps")
    if name == "unlabelled_batches" and batches:
        return batches.get("unlabelled", 0)
    if name == "unlabelled_hours" and batches:
        return 0 if not batches.get("unlabelled") else None
    if name in ("encoder_frames", "compute") and frames:
        before = (summary.get("stage1") or {}).get("frames") or {}
        read = sum(frames.values()) + sum(before.values())
        if name == "encoder_frames":
            return read
        peers = (summary.get("peers") or {}).values()
        size = sum(each["parameters"] for each in peers) or summary.get("parameters")
        return None if not size else read * size
    return None


def mismatches(
    system: Iterable[Mapping | None], control: Iterable[Mapping | None], promised: Iterable[str]
) -> list[str]:
    """What differs by more than 1 % though it is promised to be equal, or cannot be checked.

    Args:
        system: summaries of the system's seeds, None where a training has none.
        control: of the control's.
        promised: names of `espnet_ext.recipe.systems.MATCHES`.

    Returns:
        a phrase each, as ``seconds: 12 % more``; the system relative to the control, mean over seeds.

    >>> mismatches([{"steps": 110}], [{"steps": 100}], ["steps"])
    ['steps: 10 % more']
    """
    sides = list(system), list(control)
    found = []
    for name in promised:
        known = [[amount(each or {}, name) for each in side] for side in sides]
        if any(value is None for side in known for value in side) or not all(known):
            found.append(f"{name}: not recorded")
            continue
        one, other = (sum(side) / len(side) for side in known)
        if abs(one - other) > TOLERANCE * max(abs(other), 1e-12):
            change = (
                f"{abs(one / other - 1) * 100:.3g} % {'more' if one > other else 'less'}" if other else ""
            )
            found.append(f"{name}: {change or 'the control has none'}")
    return found
