"""What a recogniser learns from its peers: the cross-entropy to their posteriors, label by label.

A peer's posterior is a target, never a thing to be learnt: it carries no gradient. The cross-entropy to
several peers is the cross-entropy to the mean of their posteriors, since it is linear in the target.

Legend: B batch, U labels with <eos> (or frames, for CTC), V tokens.
"""

from collections.abc import Sequence

import torch

from espnet_ext.errors import UserError

FORMS = ("cross_entropy", "kl")


def posteriors(scores: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Softmax over the tokens, without gradient and at least in single precision.

    Args:
        scores: (..., V) before the softmax.
        temperature: scores are divided by it; above 1 the posterior becomes flatter.
    """
    return torch.softmax(_precise(scores.detach()) / temperature, dim=-1)


def mutual_sum(
    scores: torch.Tensor,
    targets: Sequence[torch.Tensor],
    keep: torch.Tensor,
    temperature: float = 1.0,
    form: str = "cross_entropy",
) -> torch.Tensor:
    """Sum over positions of the mean over peers of their cross-entropy (or divergence) to this model.

    With P_l the peers' posteriors and P this model's, both at the same temperature τ:

        cross_entropy:  τ² Σ_n 1/(K-1) Σ_l H(P_l(.|n), P(.|n))
        kl:             τ² Σ_n 1/(K-1) Σ_l KL(P_l(.|n) ‖ P(.|n))

    Their gradients are the same, since the peers' entropies are constants; the divergence is 0 where all
    agree (Zhang et al. 2018, equations 3 and 8, per label). τ² undoes what the temperature does to the size
    of the gradient (Hinton et al. 2015, section 2).

    Args:
        scores: (B, U, V) this model's, before the softmax; they carry the gradient.
        targets: K - 1 tensors (B, U, V), posteriors of the peers as `posteriors` gives them.
        keep: (B, U) true where there is a label; other positions count for nothing.
        temperature: that of the targets.
        form: `cross_entropy` or `kl`.

    Returns:
        scalar sum, to be divided by what the hard term is divided by.

    Raises:
        ValueError: no peer, or an unknown form.
    """
    if not targets:
        raise ValueError("mutual_sum needs at least one peer")
    if form not in FORMS:
        raise ValueError(f"form {form!r}: expected one of {', '.join(FORMS)}")
    target = targets[0].detach()
    for other in targets[1:]:
        target = target + other.detach()
    target = target / len(targets)  # (B, U, V)
    logp = torch.log_softmax(_precise(scores) / temperature, dim=-1)
    each = -(target * logp).sum(-1)  # (B, U)
    if form == "kl":
        entropies = [-torch.special.xlogy(other, other).sum(-1) for other in targets]
        each = each - torch.stack(entropies).mean(0).detach()
    # Scores of padding may be anything, so it is replaced and not multiplied by zero.
    return temperature**2 * each.masked_fill(~keep, 0.0).sum()


def mixed(hard: torch.Tensor, mutual: torch.Tensor | None, weight: float, full_hard: bool) -> torch.Tensor:
    """The hard and the mutual sum of one branch together.

    Args:
        hard: scalar, (label-smoothed) cross-entropy to the transcript, or CTC.
        mutual: scalar of `mutual_sum`, or None where there is no peer: then the hard term alone.
        weight: λ.
        full_hard: false: (1 - λ) hard + λ mutual (Masumura et al. 2021, as reconstructed from the abstract);
            true: hard + λ mutual (Zhang et al. 2018).
    """
    if mutual is None:
        return hard
    return (1.0 if full_hard else 1.0 - weight) * hard + weight * mutual


def check_weight(weight: float, full_hard: bool) -> None:
    """Refuse a λ with which the transcript would not count.

    Raises:
        UserError: λ outside [0, 1), or outside [0, 1] where the hard term keeps its full weight.
    """
    if full_hard and not 0 <= weight <= 1:
        raise UserError(f"mutual_learning_conf: weight {weight}: expected a number in [0, 1]")
    if not full_hard and not 0 <= weight < 1:
        raise UserError(
            f"mutual_learning_conf: weight {weight}: expected a number in [0, 1); with 1 the transcript "
            "would not count, and any posterior that all peers share would be a solution"
        )


def _precise(scores: torch.Tensor) -> torch.Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
