"""What a comparison shows, in words: the verdict, and what a reader must know beside it."""

from espnet_ext.score.compare import ALPHA, Comparison


def verdict(found: Comparison) -> str:
    """One sentence: fewer errors, more errors, or no difference shown and what could have been seen.

    A change is in percentage points of the error rate, and in brackets in percent of the control's errors.
    """
    if found.shown:
        size = percent(found.relative(found.difference.value))
        points = signed(found.difference.value)
        kind = "fewer" if found.difference.value < 0 else "more"
        amount = f"{size} " if size else ""
        return (
            f"{amount}{kind} errors than {found.control} ({points} points{interval(found)}; {p_value(found)})"
        )
    seen = found.detectable
    if seen is None:
        return "no difference shown; there is too little here to test anything"
    relative = found.relative(seen)
    # Without a rate to relate to, and where only a multiple of all errors would be seen, points say more.
    size = percent(relative) if relative is not None else f"{seen:.2f} points"
    points = f"{seen:.2f} points, " if relative is not None else ""
    return (
        f"no difference shown; this test could see a change of {size} or more "
        f"({points}four times in five; found: {signed(found.difference.value)} points{interval(found)}; "
        f"{p_value(found)})"
    )


def caveats(found: Comparison) -> list[str]:
    """What limits the verdict."""
    notes = []
    if len(found.seeds) == 1:
        notes.append(
            "one training each: the interval is about other sentences, not about another training of the same"
        )
    if found.drawn == "utterances":
        notes.append(
            "under 10 speakers (or none known): single utterances were drawn, so nothing is said about other "
            "speakers and the interval may be too narrow"
        )
    if found.unpaired:
        notes.append(f"seed {', '.join(found.unpaired)} has no partner and was left out")
    if not found.shown and found.difference.p < ALPHA and found.comparisons > 1:
        notes.append(
            f"its own interval leaves out 0, but one of {found.comparisons} comparisons may by chance"
        )
    return notes


def interval(found: Comparison) -> str:
    """The 95 % interval behind a comma, or nothing."""
    estimate = found.difference
    if estimate.low is None or not estimate.parts:
        return ""
    return f", 95 % interval {signed(estimate.low)} to {signed(estimate.high)}"


def p_value(found: Comparison) -> str:
    """The deciding p and how it was corrected.

    A p below the draws' resolution is not printed as if it were known.
    """
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    if found.corrected_p is None:
        return f"{p}, not corrected"
    return p if found.comparisons == 1 else f"{p} after correction for {found.comparisons} comparisons"


def signed(points: float) -> str:
    """A difference with its sign; a real minus, which lines up and is read aloud.

    >>> signed(-1.234), signed(0.0), signed(2)
    ('−1.23', '0.00', '+2.00')
    """
    text = f"{points:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def percent(value: float | None) -> str:
    """A size in percent, rounded as one would say it; nothing where there is none.

    >>> percent(-3.26), percent(26.2), percent(None)
    ('3.3 %', '26 %', '')
    """
    if value is None:
        return ""
    return f"{abs(value):.0f} %" if abs(value) >= 10 else f"{abs(value):.1f} %"
