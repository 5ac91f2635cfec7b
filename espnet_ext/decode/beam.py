"""Joint CTC/attention beam search over all hypotheses of all utterances of a batch at once.

The score of a hypothesis is ``(1 - ctc_weight) log p_att + ctc_weight log p_ctc + lm_weight log p_lm +
penalty * length`` (Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech
recognition", equation 49; a language model of the same tokens beside it is shallow fusion).
Hypotheses, scores and stopping rules are those of ESPnet 202511's BatchBeamSearch, which takes one
utterance at a time; it differs in four places, none of which changes the n-best list of an ordinary search:

* an utterance also stops when no running hypothesis can enter its n-best list any more;
* CTC prefixes are summed in float64, and a hypothesis of probability zero is dropped (ESPnet: scored -1e10);
* at the length limit ESPnet appends a second ``<eos>`` to a hypothesis that has just ended, which shows in
  its text and counts in its length;
* where no hypothesis reaches ``minlenratio``, it is lowered until one does (ESPnet gives up below 0.1).

B: utterances, N: hypotheses of an utterance, T: frames, V: tokens, S: tokens that CTC scores,
U: tokens so far, D: features.
"""

import heapq
import math

import torch

from espnet_ext.decode.cached_decoder import cached_decoder
from espnet_ext.decode.cached_lm import cached_lm
from espnet_ext.decode.ctc_prefix import CTCPrefixScorer
from espnet_ext.decode.hypothesis import Hypothesis
from espnet_ext.decode.limits import length_limits
from espnet_ext.decode.options import DecodeOptions

#: Share of tokens, relative to the beam, that the decoder proposes to the CTC scorer (ESPnet's
#: ``pre_beam_ratio``).
PRE_BEAM_RATIO = 1.5
#: End detection (Watanabe et al. 2017, equation 50): what ended in each of this many steps ...
END_STEPS = 3
#: ... was this much worse than the best. ESPnet looks at lengths with <sos> and <eos>, so at steps two back.
END_MARGIN = -10.0
END_DELAY = 2


def beam_search(
    decoder: torch.nn.Module | None,
    ctc: torch.nn.Module | None,
    memory: torch.Tensor,
    lens: torch.Tensor,
    sos: int,
    eos: int,
    blank: int,
    options: DecodeOptions,
    lm: torch.nn.Module | None = None,
) -> list[list[Hypothesis]]:
    """Search the best token sequences of every utterance.

    Args:
        decoder: an ESPnet transformer decoder in eval mode; None is allowed where ``ctc_weight`` is 1.
        ctc: an ESPnet CTC layer; None is allowed where it is 0.
        memory: encoder output (B, T, D).
        lens: encoder frames (B,).
        sos, eos, blank: token ids.
        options: beam, weights and length limits.
        lm: an ESPnet language model in eval mode; None is allowed where ``lm_weight`` is 0.

    Returns:
        For each utterance at least one and at most ``nbest`` hypotheses, the best first.
    """
    lens = lens.to(memory.device)
    results: list[list[Hypothesis]] = [[] for _ in range(memory.size(0))]
    todo = list(range(memory.size(0)))
    minlenratio = options.minlenratio
    while todo:
        search = _Search(decoder, ctc, memory[todo], lens[todo], sos, eos, blank, options, minlenratio, lm)
        for index, found in zip(todo, search.run(), strict=True):
            results[index] = found
        if minlenratio == 0:
            break
        todo = [index for index in todo if not results[index]]
        minlenratio = max(0.0, minlenratio - 0.1)
    return results


class _Search:
    """The state of one search: prefixes, scores and ended hypotheses of the utterances still running."""

    def __init__(self, decoder, ctc, memory, lens, sos, eos, blank, options, minlenratio, lm):
        device = memory.device
        self.options, self.eos, self.blank = options, eos, blank
        self.attention = cached_decoder(decoder, memory, lens) if options.ctc_weight < 1 else None
        self.ctc = CTCPrefixScorer(ctc.log_softmax(memory), lens, blank) if options.ctc_weight > 0 else None
        self.lm = cached_lm(lm) if options.lm_weight > 0 else None
        self.utterances = torch.arange(memory.size(0), device=device)  # (B,), rows of the input
        self.shortest, self.longest = length_limits(lens, options.maxlenratio, minlenratio)  # (B,)
        self.prefix = torch.full((memory.size(0), 1, 1), sos, device=device)  # (B, N, U + 1)
        # The parts of the decoder and of the language model, and the bonus; CTC's part follows from the
        # prefix alone, not from its history.
        self.partial = torch.zeros(memory.size(0), 1, dtype=torch.float64, device=device)  # (B, N)
        self.ended: list[list[tuple[float, Hypothesis]]] = [[] for _ in range(memory.size(0))]
        self.best_ended = torch.full((memory.size(0),), -torch.inf, dtype=torch.float64, device=device)
        self.recent: list[torch.Tensor] = []  # best score that ended in each of the last steps, each (B,)

    @torch.no_grad()
    def run(self) -> list[list[Hypothesis]]:
        """Step until every utterance has stopped; return its ended hypotheses, ranked."""
        step = 0
        while len(self.utterances):
            partial, total = self._score()
            parents, tokens, totals = self._prune(total)
            rows = torch.arange(parents.size(0), device=parents.device)[:, None]
            self.partial = partial[rows, parents, tokens]
            self.prefix = torch.cat((self.prefix[rows, parents], tokens[..., None]), dim=-1)
            running, over = self._end(step, tokens, totals)
            for scorer in filter(None, (self.attention, self.lm)):
                scorer.select(parents)
            if self.ctc:
                self.ctc.select(parents, tokens)
            over |= self._nothing_better(step, totals.masked_fill(~running, -torch.inf))
            self.partial = self.partial.masked_fill(~running, -torch.inf)
            self._drop(over)
            step += 1
        return [self._ranked(hypotheses) for hypotheses in self.ended]

    def _score(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of every hypothesis extended by every token: without CTC, and with it (both (B, N, V))."""
        weight = self.options.ctc_weight
        partial = self.partial[..., None] + self.options.penalty
        if self.attention:
            partial = partial + (1 - weight) * self.attention.step(self.prefix)
        if self.lm:
            partial = partial + self.options.lm_weight * self.lm.step(self.prefix)
        if not self.ctc:
            return partial, partial
        if not self.attention:
            psi = self.ctc.score(None)
            partial = partial.expand_as(psi)
            total = partial + weight * psi
        else:
            width = min(int(PRE_BEAM_RATIO * self.options.beam_size), partial.size(-1))
            proposed = partial.topk(width, dim=-1).indices  # (B, N, S)
            psi = weight * self.ctc.score(proposed)
            total = torch.full_like(partial, -torch.inf)
            total.scatter_(-1, proposed, partial.gather(-1, proposed) + psi)
        # the end is always a candidate, proposed by the decoder or not
        total[..., self.eos] = partial[..., self.eos] + weight * self.ctc.end()
        return partial, total

    def _prune(self, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best extensions of each utterance, best first: parents, tokens and scores, all (B, N)."""
        candidates = total.flatten(1)  # (B, N x V)
        totals, index = candidates.topk(min(self.options.beam_size, candidates.size(1)), dim=-1)
        return index // total.size(-1), index % total.size(-1), totals

    def _end(
        self, step: int, tokens: torch.Tensor, totals: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Note what has ended; return which hypotheses run on (B, N) and which utterances must stop (B,)."""
        alive = totals > -torch.inf
        by_itself = alive & (tokens == self.eos)
        limit = step + 1 >= self.longest  # (B,)
        ended = (by_itself | (alive & limit[:, None])) & (step >= self.shortest)[:, None]
        best = totals.masked_fill(~ended, -torch.inf).amax(dim=1)
        self.best_ended = torch.maximum(self.best_ended, best)
        self.recent = [*self.recent[1 - END_STEPS - END_DELAY :], best]
        if ended.any():
            which = ended.nonzero()[:, 0]
            found = zip(
                self.utterances[which].tolist(),
                self.prefix[ended][:, 1:].tolist(),
                totals[ended].tolist(),
                by_itself[ended].tolist(),
                strict=True,
            )
            for utterance, sequence, score, natural in found:
                length = len(sequence) + (not natural)  # <eos> counts, as in ESPnet's normalisation
                spoken = tuple(token for token in sequence if token not in (self.eos, self.blank))
                rank = score / length if self.options.normalize_length else score
                self.ended[utterance].append((rank, Hypothesis(spoken, score, truncated=not natural)))
        running = alive & ~by_itself & ~limit[:, None]
        over = ~running.any(dim=1)
        if self.options.maxlenratio == 0:
            over |= self._end_detected()
        return running, over

    def _end_detected(self) -> torch.Tensor:
        """Utterances (B,) in which each of a few steps ended something, and nothing near the best."""
        if len(self.recent) < END_STEPS + END_DELAY:
            return torch.zeros_like(self.utterances, dtype=torch.bool)
        recent = torch.stack(self.recent[:END_STEPS])
        return ((recent > -torch.inf) & (recent - self.best_ended < END_MARGIN)).all(dim=0)

    def _nothing_better(self, step: int, running: torch.Tensor) -> torch.Tensor:
        """Utterances (B,) whose running hypotheses (scores (B, N)) can no longer enter the n-best list.

        Log-probabilities only fall as a hypothesis grows, the bonus grows by ``penalty`` a token.
        """
        if self.options.normalize_length:
            return torch.zeros_like(self.utterances, dtype=torch.bool)
        bonus = max(0.0, self.options.penalty) * (self.longest - step - 1)
        bound = running.amax(dim=1) + bonus
        worst = [self._nth_best(utterance) for utterance in self.utterances.tolist()]
        return bound <= torch.tensor(worst, dtype=bound.dtype, device=bound.device)

    def _nth_best(self, utterance: int) -> float:
        ranks = [rank for rank, _ in self.ended[utterance]]
        return (
            heapq.nlargest(self.options.nbest, ranks)[-1] if len(ranks) >= self.options.nbest else -math.inf
        )

    def _drop(self, over: torch.Tensor) -> None:
        """Take utterances that are over (B,) out of the batch."""
        if not over.any():
            return
        left = (~over).nonzero()[:, 0]
        self.utterances, self.prefix, self.partial = (
            self.utterances[left],
            self.prefix[left],
            self.partial[left],
        )
        self.shortest, self.longest = self.shortest[left], self.longest[left]
        self.best_ended, self.recent = self.best_ended[left], [best[left] for best in self.recent]
        for scorer in filter(None, (self.attention, self.ctc, self.lm)):
            scorer.keep(left)

    def _ranked(self, hypotheses: list[tuple[float, Hypothesis]]) -> list[Hypothesis]:
        ranked = sorted(hypotheses, key=lambda item: item[0], reverse=True)
        return [hypothesis for _, hypothesis in ranked[: self.options.nbest]]
