"""Figures that tell whether recogniser and critic train well.

Legend: B utterances, U positions (labels with <eos>), V tokens.
"""

import torch

from espnet_ext.asr.model import ASROutput
from espnet_ext.gan.losses import CriticTerms
from espnet_ext.train.method import Figures


def recogniser_figures(
    output: ASROutput,
    fake: torch.Tensor,
    scores: torch.Tensor,
    pairs: int,
    joint: torch.Tensor,
    adversarial: torch.Tensor,
    denominator: float,
    count: float,
) -> Figures:
    """What the recogniser's turn looks like from the decoder's output.

    Args:
        output: of the recogniser.
        fake: (B, U, V) its soft outputs.
        scores: (B,) of the critic for them, 0 for those that are left out.
        pairs: how many are not.
        joint, adversarial: this micro-batch's shares of the two losses.
        denominator: what both were divided by.
        count: what of it belongs to this micro-batch: utterances, or labels with `loss_norm: token`.

    Returns:
        `loss_adv` the adversarial loss with its weight, in the unit of `loss`; `score` the critic's score
        without any, per utterance; `peak` the mean of the largest posterior; `grad_joint` and `grad_adv` the
        norm of each loss's gradient with respect to the decoder's scores at a position, mean over positions,
        times the denominator, so that neither depends on the size of the batch. Their ratio is how much the
        critic steers.
    """
    figures: Figures = {
        "loss_adv": (adversarial.detach() * denominator, count),
        "score": (scores.detach().sum(), pairs),
        "peak": (fake.detach().amax(-1).sum(), output.labels),
    }
    for name, loss in (("grad_joint", joint), ("grad_adv", adversarial)):
        (gradient,) = torch.autograd.grad(loss, output.decoder_out, retain_graph=True)
        norms = torch.linalg.vector_norm(gradient.float(), dim=-1)  # (B, U)
        figures[name] = (norms.sum() * denominator, output.labels)
    return figures


def critic_figures(terms: CriticTerms, pairs: int, loss: torch.Tensor, utterances: float) -> Figures:
    """What the critic's turn looks like.

    Args:
        terms: of the pairs.
        pairs: how many there are, without those that are left out.
        loss: their share of the critic's loss.
        utterances: what it was divided by.

    Returns:
        means over the pairs: `critic_loss`; `critic_gap` transcripts' scores above soft outputs';
        `critic_distance`, the most that the gap can be with a slope of 1; `critic_slope`; `critic_penalty`.
    """
    return {
        "critic_loss": (loss.detach() * utterances, pairs),
        "critic_gap": ((terms.real - terms.fake).detach().sum(), pairs),
        "critic_distance": (terms.distance.detach().sum(), pairs),
        "critic_slope": (terms.slope.detach().sum(), pairs),
        "critic_penalty": (terms.penalty.detach().sum(), pairs),
    }
