"""BEST-RQ: predict the codes of hidden frames (Chiu, Qin, Zhang, Yu, Wu 2022, arXiv 2202.01855).

Differences from the paper: the number of masked frames is fixed on average for every length (see `masks`), a
span hides all feature frames that its encoder frames read, and features are standardised by utterance.

Legend: B batch, N samples, T feature frames, T' encoder frames, F features, D encoder's size,
M masked encoder frames of the batch, S stacked frames of a target, C codebooks, V codes.
"""

from collections.abc import Sequence

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.encode import encode, encoder_size, features_of
from espnet_ext.ssl.health import Watch
from espnet_ext.ssl.masks import LARGEST_RATE, draw_spans
from espnet_ext.ssl.objective import Between, Predictions, SSLObjective, nothing_between
from espnet_ext.ssl.quantiser import RandomQuantiser, standardise
from espnet_ext.train.keys import generator, key
from espnet_ext.train.method import Totals


class BestRQ(SSLObjective):
    """Masked prediction of random codes.

    Args:
        model: the recogniser whose encoder is trained.
        size: F.
        seed: key of the quantiser and of the head's initial values.
        mask_rate: part of the encoder frames that is masked.
        mask_span: encoder frames that are masked together.
        noise: standard deviation of what masked features are replaced with; their mean is 0.
        stack: S, feature frames a target is made of; from the middle of what the encoder frame reads.
        code_size, codes, codebooks: see `RandomQuantiser`; the loss is the mean over codebooks.
        normalise: `utterance` standardises targets by utterance; `model` takes the recogniser's
            normalisation.
        least_use: a use of codes (0 to 1) below it is called collapsed; 0: never.
        least_spread: a spread of the encoder's output (0 to 1) below it is called collapsed.

    Raises:
        UserError: an option out of range, or an encoder that cannot be masked.
    """

    name = "bestrq"

    def __init__(
        self,
        model: torch.nn.Module,
        size: int,
        seed: int = 0,
        mask_rate: float = 0.4,
        mask_span: int = 10,
        noise: float = 0.1,
        stack: int = 4,
        code_size: int = 16,
        codes: int = 1024,
        codebooks: int = 1,
        normalise: str = "utterance",
        least_use: float = 0.02,
        least_spread: float = 0.01,
    ):
        super().__init__(model, size)
        for name, value, good, expected in (
            ("mask_rate", mask_rate, 0 < mask_rate <= LARGEST_RATE, f"in (0, {LARGEST_RATE}]"),
            ("mask_span", mask_span, mask_span >= 1, "at least 1"),
            ("noise", noise, 0 <= noise < float("inf"), "not negative, and finite"),
            (
                "stack",
                stack,
                1 <= stack <= self.grid.window,
                f"from 1 to {self.grid.window}, the frames it reads",
            ),
            ("code_size", code_size, code_size >= 1, "at least 1"),
            ("codes", codes, codes >= 2, "at least 2"),
            ("codebooks", codebooks, codebooks >= 1, "at least 1"),
            ("normalise", normalise, normalise in ("utterance", "model"), "utterance or model"),
            ("least_use", least_use, 0 <= least_use <= 1, "from 0 (never an alarm) to 1"),
            ("least_spread", least_spread, 0 <= least_spread <= 1, "from 0 (never an alarm) to 1"),
        ):
            if not good:
                raise UserError(f"ssl_conf {name}: {value}: expected {expected}")
        self.mask_rate, self.mask_span, self.noise, self.stack = mask_rate, mask_span, noise, stack
        self.normalise, self.least_use, self.least_spread = normalise, least_use, least_spread
        self.quantiser = RandomQuantiser(stack * size, code_size, codes, codebooks, seed)
        width = encoder_size(model)
        self.head = torch.nn.Linear(width, codebooks * codes)
        draw = torch.Generator().manual_seed(key(seed, "bestrq head"))
        bound = width**-0.5
        with torch.no_grad():
            self.head.weight.uniform_(-bound, bound, generator=draw)
            self.head.bias.zero_()
        self.watch = Watch(codebooks * codes, width)

    def expected(self, totals: Totals) -> float:
        return self.mask_rate * self.grid.expected_frames(totals)

    def predict(
        self,
        model: torch.nn.Module,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        keys: Sequence[int],
        between: Between = nothing_between,
    ) -> Predictions:
        features, lengths = features_of(model, speech, lengths)  # (B, T, F)
        rows, frames, hidden, noise = self._draw(lengths.tolist(), keys, features.size(2))
        if not len(rows):
            return self.nothing(self.head)
        device = features.device
        rows, frames = rows.to(device), frames.to(device)  # (M,) each
        targets = self.targets(features, lengths, rows, frames)  # (M, C)
        masked = features.clone()
        masked[hidden[0].to(device), hidden[1].to(device)] = noise.to(device, features.dtype)
        encoded = encode(model, masked, lengths)[rows, frames]  # (M, D)
        logits = self.head(between(encoded)).float()
        logits = logits.view(-1, self.quantiser.codebook.size(1))  # (M * C, V)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
        correct = (logits.detach().argmax(-1) == targets.flatten()).sum()
        if self.training:
            self._watch(targets, encoded)
        books = targets.size(1)
        return Predictions(loss / books, len(rows), correct / books)

    def targets(
        self, features: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor, frames: torch.Tensor
    ) -> torch.Tensor:
        """Codes (M, C) of encoder frames ``frames`` (M,) in rows ``rows`` (M,) of features (B, T, F).

        A target is made of S frames in the middle of what its encoder frame reads, all of them hidden by the
        mask.
        """
        features = features.detach()
        if self.normalise == "utterance":
            features = standardise(features, lengths)
        first = frames * self.grid.factor + (self.grid.window - self.stack) // 2
        inside = first[:, None] + torch.arange(self.stack, device=frames.device)  # (M, S)
        return self.quantiser(features[rows[:, None], inside].flatten(1))

    def alarms(self) -> list[str]:
        use, spread = self.watch.read()
        found = []
        if use is not None and use < self.least_use:
            found.append(
                f"targets use {use:.2%} of the codes (least_use {self.least_use:.2%}): are the features "
                "normalised? try normalise: utterance, or fewer codes"
            )
        if spread is not None and spread < self.least_spread:
            found.append(
                f"encoder outputs all point the same way (spread {spread:.1e}, least_spread "
                f"{self.least_spread:.1e}): lower the learning rate"
            )
        return found

    def _watch(self, targets: torch.Tensor, encoded: torch.Tensor) -> None:
        offsets = torch.arange(targets.size(1), device=targets.device) * self.quantiser.codebook.size(1)
        self.watch.see_codes(targets + offsets)
        self.watch.see_vectors(encoded)

    def _draw(self, lengths: Sequence[int], keys: Sequence[int], size: int) -> tuple:
        """Masks of a batch.

        Returns:
            rows (M,) and encoder frames (M,) that are masked; rows and feature frames that are hidden; what
            stands there instead, (hidden frames, F).
        """
        rows, frames, hidden_rows, hidden_frames, noises = [], [], [], [], []
        for row, (length, number) in enumerate(zip(lengths, keys, strict=True)):
            hide = np.zeros(length, dtype=bool)
            for start, stop in draw_spans(self.grid.frames(length), self.mask_rate, self.mask_span, number):
                rows += [row] * (stop - start)
                frames += range(start, stop)
                first = start * self.grid.factor
                hide[first : first + self.grid.features(stop - start)] = True
            where = np.flatnonzero(hide)
            hidden_rows += [row] * len(where)
            hidden_frames += where.tolist()
            draw = generator(number, "mask noise")
            noises.append(draw.standard_normal((len(where), size), dtype=np.float32) * np.float32(self.noise))
        hidden = torch.tensor(hidden_rows, dtype=torch.long), torch.tensor(hidden_frames, dtype=torch.long)
        return (
            torch.tensor(rows, dtype=torch.long),
            torch.tensor(frames, dtype=torch.long),
            hidden,
            torch.from_numpy(np.concatenate(noises)),
        )
