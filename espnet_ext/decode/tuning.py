"""Decoding weights chosen on a development set: every combination of a small grid, the same for all systems.

The encoder listens once for all combinations. The fewest word errors win, then the fewest character errors
(the other way round for languages without spaces), then what comes first in the grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.kaldi import read_table
from espnet_ext.decode.batches import make_batches
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.recogniser import Recogniser
from espnet_ext.decode.run import load, model_rate, results_of
from espnet_ext.decode.source import Source
from espnet_ext.errors import UserError
from espnet_ext.progress import progress


@dataclass(frozen=True)
class Point:
    """One combination, and the errors it makes in percent, by name; what counts most comes first."""

    options: DecodeOptions
    errors: Mapping[str, float]


def tune(
    model_dir: Path | Sequence[Path],
    data_dir: Path,
    grid: Sequence[DecodeOptions],
    errors: Callable[[Sequence[str], Sequence[str]], Mapping[str, float | None]],
    *,
    lm_dir: Path | None = None,
    gpu: bool = False,
    threads: int = 1,
) -> list[Point]:
    """Decode a set in every way of a grid.

    Args:
        model_dir: an exported model, or several that decode together.
        data_dir: a dumped set with transcripts.
        grid: the combinations.
        errors: from transcripts and hypotheses to a point's errors; None where there is nothing to count.
        lm_dir: a language model, for combinations that give it a weight.
        gpu: decode on a GPU.
        threads: CPU threads.

    Returns:
        The points in the order of the grid.

    Raises:
        UserError: what cannot be decoded, or has no transcripts to be compared with.
    """
    model, lm, text = load(
        model_dir, lm_dir, any(way.lm_weight > 0 for way in grid), gpu=gpu, threads=threads
    )
    config = model.export_config
    source = Source(data_dir, model_rate(config), config.get("input_size"))
    recogniser = [Recogniser(model, way, lm) for way in grid][0]  # each way is checked
    utterances = source.utterances()
    references = _references(data_dir, [each.name for each in utterances])

    def every_way(inputs):
        return list(zip(*recogniser.each_way(inputs, grid), strict=True))

    batches = make_batches(utterances, grid[0].batch_seconds)
    results = progress(
        results_of(batches, source, every_way),
        len(utterances),
        f"tune on {data_dir}, {len(grid)} ways",
        "utt",
    )
    found = {utterance.name: [text.text(each[0].tokens) for each in ways] for utterance, ways in results}
    points = []
    for number, way in enumerate(grid):
        rates = errors([references[name] for name in found], [texts[number] for texts in found.values()])
        if None in rates.values():
            raise UserError(
                f"{data_dir / 'text'}: its transcripts hold no words: nothing can be chosen by them"
            )
        points.append(Point(way, rates))
    return points


def best(points: Sequence[Point]) -> Point:
    """The point of fewest errors; see the module's page."""
    return min(points, key=lambda point: tuple(point.errors.values()))


def _references(data_dir: Path, names: Sequence[str]) -> Mapping[str, str]:
    table = read_table(data_dir / "text", value="transcript", empty_values=True)
    for name in names:
        if name not in table.rows:
            raise UserError(
                f"{table.path}: no transcript of {name!r}: weights are tuned on sets that have all"
            )
    return table.rows
