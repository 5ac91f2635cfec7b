"""Wasserstein loss with gradient penalty, and the recogniser's adversarial term.

Legend: B pairs of a transcript (real) and the decoder's soft output (fake), L positions, V tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

#: (B, L, V) sequences and their lengths (B,) → scores (B,); what it makes of one sequence must not depend on
#: the others (a BatchNorm gets its statistics beforehand).
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class CriticTerms:
    """What the critic's loss is made of, one value a pair; 0 for a pair that is left out (length 0)."""

    real: torch.Tensor  # (B,) score of the transcript
    fake: torch.Tensor  # (B,) score of the soft output
    slope: torch.Tensor  # (B,) norm of the score's gradient at a point between the two
    distance: torch.Tensor  # (B,) between the two, the largest gap a slope of 1 allows
    penalty: torch.Tensor  # (B,) (slope - 1)² (Gulrajani et al. 2017, equation 3; Haidar 2021, equation 2)

    def loss(self, lambda_d: float, lambda_gp: float, utterances: float) -> torch.Tensor:
        """The critic's loss (Haidar 2021, equations 1 to 3): λ_d (E[fake] - E[real]) + λ_gp E[penalty].

        Args:
            lambda_d, lambda_gp: weights. λ_d multiplies both scores and not the penalty.
            utterances: what the sums are divided by: utterances of the whole optimiser step, with those
                that are left out.

        Returns:
            scalar: these pairs' share.
        """
        gap = self.fake.sum() - self.real.sum()
        return (lambda_d * gap + lambda_gp * self.penalty.sum()) / utterances


def adversarial_loss(scores: torch.Tensor, weight: float, denominator: float) -> torch.Tensor:
    """What the recogniser's loss gains (Haidar 2021, equation 5): -λ_d D(fake).

    Args:
        scores: (B,) of the recogniser's soft outputs, with their gradient.
        weight: λ_d.
        denominator: the one of the loss that this is added to, of the whole optimiser step.
    """
    return -weight * scores.sum() / denominator


def critic_terms(
    score: Score,
    real: torch.Tensor,
    fake: torch.Tensor,
    lengths: torch.Tensor,
    mix: torch.Tensor,
    scores: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> CriticTerms:
    """Score pairs and the points between them.

    Args:
        score: the critic.
        real, fake: (B, L, V); zero behind a sequence's length.
        lengths: (B,); 0 leaves a pair out.
        mix: (B,) part of the real sequence in the point where the slope is taken, one number a pair (γ in
            Haidar 2021).
        scores: of real and fake, where they are known already.
    """
    real_scores, fake_scores = scores or (score(real, lengths), score(fake, lengths))
    slope = slopes(score, interpolate(real, fake, mix), lengths)
    there = lengths.to(slope) > 0
    return CriticTerms(
        real_scores,
        fake_scores,
        slope,
        torch.linalg.vector_norm(real - fake, dim=(1, 2)) * there,
        (slope - 1).square() * there,
    )


def interpolate(real: torch.Tensor, fake: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """(B, L, V): mix · real + (1 - mix) · fake, one weight for all positions and tokens of a pair."""
    return torch.lerp(fake, real, mix[:, None, None].to(fake))


def slopes(score: Score, points: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Norm of the score's gradient, over all positions and tokens of a sequence together.

    Args:
        score: the critic.
        points: (B, L, V) where to take it.
        lengths: (B,).

    Returns:
        (B,), differentiable with respect to the critic's parameters. Where the gradient vanishes, the norm's
        own derivative is taken as 0.
    """
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(points, lengths).sum(), points, create_graph=True)  # (B, L, V)
    return torch.linalg.vector_norm(gradient, dim=(1, 2))
