"""How far a recogniser's confidence is from how often it is right.

Legend: B batch, U labels with <eos>, V tokens.
"""

import torch


class Calibration:
    """Expected calibration error and mean largest posterior of a decoder under teacher forcing.

    Positions are sorted into ``bins`` intervals ((m-1)/bins, m/bins] of the largest posterior. With n_m
    positions in interval m, the part acc_m of them right and their mean posterior conf_m (Guo et al. 2017,
    equation 3):

        ECE = Σ_m n_m / n |acc_m - conf_m|

    Sums are kept, in double precision, so that batches can come one after another and parts can be merged.

    Args:
        bins: number of intervals.
    """

    def __init__(self, bins: int = 15):
        self.bins = bins
        self.sums = torch.zeros(3, bins, dtype=torch.float64)  # positions, right ones, posteriors

    def add(self, scores: torch.Tensor, targets: torch.Tensor, ignore_id: int = -1) -> None:
        """Count a batch.

        Args:
            scores: (B, U, V) before the softmax.
            targets: (B, U) labels; those that are ``ignore_id`` do not count.
        """
        keep = targets != ignore_id
        posterior, best = torch.softmax(scores.detach()[keep].double(), dim=-1).max(-1)  # (positions,)
        # In double precision, and the ceiling of it: 1/3 of 3 bins belongs to the first.
        index = (posterior * self.bins).ceil().long().clamp(1, self.bins) - 1
        rows = torch.stack([torch.ones_like(posterior), (best == targets[keep]).double(), posterior])
        sums = torch.zeros(3, self.bins, dtype=torch.float64, device=scores.device)
        self.sums += sums.index_add_(1, index, rows).cpu()

    def merge(self, other: "Calibration") -> None:
        """Add what another one counted.

        Raises:
            ValueError: it has another number of bins.
        """
        if other.bins != self.bins:
            raise ValueError(f"calibrations of {self.bins} and {other.bins} bins cannot be merged")
        self.sums += other.sums

    @property
    def positions(self) -> int:
        """Number of labels counted."""
        return int(self.sums[0].sum())

    def figures(self) -> dict[str, float]:
        """Its three numbers, each in [0, 1]: `ece`, `max_posterior` (mean), `accuracy`.

        `max_posterior` above `accuracy` is over-confidence.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.positions:
            raise ValueError("there is no label to measure the calibration of")
        count, right, confidence = self.sums
        return {
            "ece": float((right - confidence).abs().sum() / count.sum()),
            "max_posterior": float(confidence.sum() / count.sum()),
            "accuracy": float(right.sum() / count.sum()),
        }
