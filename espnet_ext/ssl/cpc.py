"""Contrastive predictive coding on the shared encoder: what comes next, told from what was heard so far.

As in BL-JUST's own code (see the methods notes): a stretch of context and the stretch after it are encoded
separately, the last frame of the context is rolled forward by one linear layer, once a frame of the future,
and each result has to pick its own future frame by InfoNCE. The encoder may look both ways, since it never
sees the future when it encodes the context.

Legend: B batch, N samples, T feature frames, F features, D encoder's size, W cuts of the batch, K future
frames.
"""

from collections.abc import Sequence

import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.contrast import TARGET_GRADIENTS, info_nce
from espnet_ext.ssl.encode import encode, encoder_size, features_of
from espnet_ext.ssl.grid import Grid
from espnet_ext.ssl.health import Watch
from espnet_ext.ssl.objective import Between, Predictions, SSLObjective, nothing_between
from espnet_ext.train.keys import generator, key
from espnet_ext.train.method import Totals


class CPC(SSLObjective):
    """InfoNCE between rolled-forward contexts and encoded futures.

    Cuts between context and future stand ``stride`` apart, the first one at random: every place of an
    utterance is cut equally often, and the number of cuts is proportional to the length on average.

    Args:
        model: the recogniser whose encoder is trained.
        size: F.
        seed: key of the linear layer's initial values.
        context: encoder frames before a cut, at most.
        least_context: encoder frames before a cut, at least.
        future: K, encoder frames after a cut that are predicted.
        stride: encoder frames between two cuts; at least what K frames read, so that no frame is its own
            negative.
        temperature: see `info_nce`.
        negatives: `utterance`: other future frames of the same utterance, so that the loss depends neither on
            the batch nor on its cut into micro-batches; `batch`: those of the whole micro-batch, as BL-JUST's
            code.
        neighbours: future frames so many places from the target are no negatives: they are too much alike.
        target_gradient: see `info_nce`; `none` encodes the futures without gradient, and saves their memory.
        least_spread: a spread of the targets (0 to 1) below it is called collapsed.

    Raises:
        UserError: an option out of range, or an encoder that cannot be cut.
    """

    name = "infonce"

    def __init__(
        self,
        model: torch.nn.Module,
        size: int,
        seed: int = 0,
        context: int = 50,
        least_context: int = 5,
        future: int = 12,
        stride: int = 25,
        temperature: float = 0.1,
        negatives: str = "utterance",
        neighbours: int = 1,
        target_gradient: str = "none",
        least_spread: float = 0.01,
    ):
        super().__init__(model, size)
        reads = self.grid.features(future)
        for name, value, good, expected in (
            ("least_context", least_context, least_context >= 1, "at least 1"),
            ("context", context, context >= least_context, f"at least least_context, {least_context}"),
            ("future", future, future >= 2, "at least 2"),
            (
                "stride",
                stride,
                stride * self.grid.factor >= reads,
                f"at least {-(-reads // self.grid.factor)}",
            ),
            ("temperature", temperature, 0 < temperature < float("inf"), "above 0, and finite"),
            ("negatives", negatives, negatives in ("utterance", "batch"), "utterance or batch"),
            (
                "neighbours",
                neighbours,
                0 <= neighbours < future - 1,
                f"from 0 to {future - 2}, less than future - 1",
            ),
            (
                "target_gradient",
                target_gradient,
                target_gradient in TARGET_GRADIENTS,
                " or ".join(TARGET_GRADIENTS),
            ),
            ("least_spread", least_spread, 0 <= least_spread <= 1, "from 0 (never an alarm) to 1"),
        ):
            if not good:
                raise UserError(f"ssl_conf {name}: {value}: expected {expected}")
        self.future, self.temperature, self.negatives = future, temperature, negatives
        self.neighbours, self.target_gradient, self.least_spread = neighbours, target_gradient, least_spread
        # The same in feature frames.
        self.context, self.least = self.grid.features(context), self.grid.features(least_context)
        self.reads, self.stride = reads, stride * self.grid.factor
        self.shortest = self.least + reads
        width = encoder_size(model)
        self.roll = torch.nn.Linear(width, width)
        draw = torch.Generator().manual_seed(key(seed, "infonce roll"))
        with torch.no_grad():
            self.roll.weight.uniform_(-(width**-0.5), width**-0.5, generator=draw)
            self.roll.bias.zero_()
        self.watch = Watch(0, width)

    def expected(self, totals: Totals) -> float:
        # An utterance of T frames has T - (least + reads) + 1 places for a cut, one in `stride` of which is
        # cut.
        places = totals.frames - totals.utterances * (self.least + self.reads - 1)
        return max(1.0, self.future * places / self.stride)

    def predict(
        self,
        model: torch.nn.Module,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        keys: Sequence[int],
        between: Between = nothing_between,
    ) -> Predictions:
        features, lengths = features_of(model, speech, lengths)  # (B, T, F)
        rows, cuts = self.draw_cuts(lengths.tolist(), keys)
        if not rows:
            return self.nothing(self.roll)
        contexts, context_lengths = self._contexts(features, rows, cuts)
        futures = torch.stack([features[r, c : c + self.reads] for r, c in zip(rows, cuts, strict=True)])
        # Lengths are known here: the mask of the encoder is made from them, and no number travels to the GPU
        # and back.
        state = between(_last(encode(model, contexts, context_lengths), self.grid, context_lengths))  # (W, D)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.target_gradient != "none"):
            whole = torch.full((len(rows),), self.reads, device=features.device)
            targets = encode(model, futures, whole)  # (W, K, D)
        if self.target_gradient != "none":
            targets = between(targets)
        steps = []
        for _ in range(self.future):
            state = self.roll(state)
            steps.append(state)
        predicted = torch.stack(steps, dim=1)  # (W, K, D)
        candidates = self.candidates(rows).to(features.device)
        flat, own = predicted.flatten(0, 1), targets.flatten(0, 1)  # (W * K, D)
        losses = info_nce(flat, own, self.temperature, candidates, self.target_gradient)
        with torch.no_grad():
            # Right where no candidate is nearer than the target, that is where the loss of temperature -> 0
            # vanishes.
            correct = self._correct(flat, own, candidates)
        if self.training:
            self.watch.see_vectors(own)
        return Predictions(losses.sum(), losses.numel(), correct)

    def draw_cuts(self, lengths: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """Row and first future feature frame of each cut, for utterances of ``lengths`` feature frames."""
        rows, cuts = [], []
        for row, (length, number) in enumerate(zip(lengths, keys, strict=True)):
            offset = int(generator(number, "cuts").integers(self.stride))
            places = range(self.least + offset, length - self.reads + 1, self.stride)
            rows += [row] * len(places)
            cuts += places
        return rows, cuts

    def candidates(self, rows: Sequence[int]) -> torch.Tensor:
        """(W K, W K), true where one future frame may be a negative of another, and on the diagonal."""
        window = torch.arange(len(rows)).repeat_interleave(self.future)  # (W K,) which cut
        place = torch.arange(self.future).repeat(len(rows))
        utterance = torch.tensor(rows).repeat_interleave(self.future)
        near = (window[:, None] == window) & ((place[:, None] - place).abs() <= self.neighbours)
        allowed = ~near | torch.eye(len(window), dtype=torch.bool)
        if self.negatives == "utterance":
            allowed &= utterance[:, None] == utterance
        return allowed

    def alarms(self) -> list[str]:
        _, spread = self.watch.read()
        if spread is None or spread >= self.least_spread:
            return []
        return [
            f"targets all point the same way (spread {spread:.1e}, least_spread {self.least_spread:.1e}): "
            "lower the learning rate, or raise the temperature"
        ]

    def _contexts(self, features: torch.Tensor, rows: Sequence[int], cuts: Sequence[int]) -> tuple:
        """Feature frames before each cut, padded behind, (W, T, F), and their number (W,).

        The number is one that encoder frames read to the end: the last one hears what stands right before the
            cut.
        """
        reads = [self.grid.features(self.grid.frames(min(cut, self.context))) for cut in cuts]
        pieces = [features[r, c - read : c] for r, c, read in zip(rows, cuts, reads, strict=True)]
        padded = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        return padded, torch.tensor([len(piece) for piece in pieces], device=features.device)

    @staticmethod
    def _correct(predicted: torch.Tensor, targets: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        predicted = torch.nn.functional.normalize(predicted.float(), dim=-1)
        targets = torch.nn.functional.normalize(targets.float(), dim=-1)
        similarity = (predicted @ targets.T).masked_fill(~candidates, -torch.inf)
        return (similarity.argmax(-1) == torch.arange(len(targets), device=targets.device)).sum()


def _last(encoded: torch.Tensor, grid: Grid, lengths: torch.Tensor) -> torch.Tensor:
    """Last true frame (W, D) of encoder output (W, T', D), for inputs of ``lengths`` feature frames."""
    last = torch.div(lengths - grid.window, grid.factor, rounding_mode="floor")
    return encoded[torch.arange(len(encoded), device=encoded.device), last]
