"""Greedy CTC search: the best token of every frame, repeats merged, blanks dropped.

B: utterances, T: frames, V: tokens.
"""

import torch

from espnet_ext.decode.hypothesis import Hypothesis


def ctc_greedy(logp: torch.Tensor, lens: torch.Tensor, blank: int) -> list[Hypothesis]:
    """Best path of each utterance (Graves et al. 2006, section 3.2, "best path decoding").

    Args:
        logp: log-probabilities of the CTC layer (B, T, V).
        lens: frames of each utterance (B,); what lies behind is not looked at.
        blank: id of the blank.

    Returns:
        One hypothesis an utterance; its score is the log-probability of the path, not of the sequence.
    """
    frames = torch.arange(logp.size(1), device=logp.device)
    valid = frames < lens.to(logp.device)[:, None]  # (B, T)
    best, path = logp.max(dim=-1)  # (B, T)
    scores = best.masked_fill(~valid, 0.0).sum(dim=1, dtype=torch.float64).tolist()
    before = torch.nn.functional.pad(path[:, :-1], (1, 0), value=blank)
    keep = valid & (path != blank) & (path != before)
    return [
        Hypothesis(tuple(tokens[kept].tolist()), score)
        for tokens, kept, score in zip(path.cpu(), keep.cpu(), scores, strict=True)
    ]
