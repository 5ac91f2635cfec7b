"""Greedy search with the attention decoder: the best next token until ``<eos>`` or the length limit.

B: utterances, T: frames, D: features, U: tokens so far.
"""

import torch

from espnet_ext.decode.cached_decoder import cached_decoder
from espnet_ext.decode.hypothesis import Hypothesis
from espnet_ext.decode.limits import length_limits


def attention_greedy(
    decoder: torch.nn.Module,
    memory: torch.Tensor,
    lens: torch.Tensor,
    sos: int,
    eos: int,
    blank: int,
    maxlenratio: float = 0.0,
    minlenratio: float = 0.0,
) -> list[Hypothesis]:
    """Greedy hypotheses of all utterances at once; an utterance that has ended leaves the batch.

    Args:
        decoder: an ESPnet transformer decoder in eval mode.
        memory: encoder output (B, T, D).
        lens: encoder frames (B,).
        sos, eos, blank: token ids; blanks are left out of the result.
        maxlenratio, minlenratio: length limits, see :func:`espnet_ext.decode.limits.length_limits`.

    Returns:
        One hypothesis an utterance; its score is the decoder's log-probability, that of ``<eos>`` included
        where the search ended with it.
    """
    lens = lens.to(memory.device)
    shortest, longest = length_limits(lens, maxlenratio, minlenratio)
    cached = cached_decoder(decoder, memory, lens)
    utterances = torch.arange(memory.size(0), device=memory.device)
    prefix = torch.full((memory.size(0), 1, 1), sos, device=memory.device)  # (B, 1, U + 1)
    score = torch.zeros(memory.size(0), dtype=torch.float64, device=memory.device)
    results: dict[int, Hypothesis] = {}
    length = 0
    while len(utterances):
        logp = cached.step(prefix)[:, 0]
        logp[length < shortest, eos] = -torch.inf
        best, token = logp.max(dim=-1)
        score = score + best
        prefix = torch.cat((prefix, token[:, None, None]), dim=-1)
        length += 1
        ended = token == eos
        done = ended | (length >= longest)
        if done.any():
            finished = zip(
                utterances[done].tolist(),
                prefix[done, 0, 1:].tolist(),
                score[done].tolist(),
                ended[done].tolist(),
                strict=True,
            )
            for utterance, tokens, total, by_itself in finished:
                spoken = tuple(token for token in tokens if token not in (eos, blank))
                results[utterance] = Hypothesis(spoken, total, truncated=not by_itself)
            left = (~done).nonzero()[:, 0]
            cached.keep(left)
            utterances, prefix, score = utterances[left], prefix[left], score[left]
            shortest, longest = shortest[left], longest[left]
    return [results[index] for index in range(memory.size(0))]
