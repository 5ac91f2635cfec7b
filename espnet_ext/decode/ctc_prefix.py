"""CTC prefix probabilities for many hypotheses of many utterances.

psi(h) is the probability that the label sequence starts with h (Watanabe et al. 2017, "Hybrid CTC/attention
architecture", algorithm 2). For h extended by c

    psi(h c) = sum over t of phi(h, c)[t - 1] y[t, c]
    phi(h, c)[t] = r_b(h)[t] + (r_n(h)[t] if c differs from the last label of h)

with r_n and r_b the probabilities of all paths over frames 0..t that spell h and end in its last label or
in a blank. Two things make this fast: scoring an extension needs no recursion over t, and the recursion of
the few extensions that a beam keeps is linear, so that it is a cumulative sum (in the log domain, in
float64) instead of a loop over the frames.

B: utterances, N: hypotheses of an utterance, T: frames, V: tokens, S: tokens to score.
"""

import torch


class CTCPrefixScorer:
    """Prefix scores of hypotheses that grow by one token a step; starts with the empty hypothesis (N = 1).

    Args:
        logp: log-probabilities of the CTC layer (B, T, V).
        lens: frames of each utterance (B,).
        blank: id of the blank.
    """

    def __init__(self, logp: torch.Tensor, lens: torch.Tensor, blank: int):
        lens = lens.to(logp.device)
        frames = torch.arange(logp.size(1), device=logp.device)
        self.valid = frames < lens[:, None]  # (B, T)
        # Zeros behind the end keep the cumulative sums finite; nothing reads what comes out of there. The
        # clamp keeps a probability of zero from turning differences of sums into inf - inf.
        logp = logp.double().clamp(min=-1e5).masked_fill(~self.valid[..., None], 0.0)
        self.logp = logp.transpose(1, 2).contiguous()  # (B, V, T)
        self.blank = logp[:, None, :, blank]  # (B, 1, T)
        self.blank_id = blank
        self.blank_sum = self.blank.cumsum(dim=-1)  # (B, 1, T)
        self.last_frame = (lens - 1)[:, None, None]  # (B, 1, 1)
        self.r_blank = self.blank_sum  # (B, N, T)
        self.r_label = torch.full_like(self.r_blank, -torch.inf)  # (B, N, T)
        self.last = torch.full(self.r_blank.shape[:2], -1, device=logp.device)  # (B, N)
        self.empty = True

    def score(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """Log prefix probability of each hypothesis extended by each of the tokens.

        Args:
            tokens: token ids (B, N, S), or None for all V of them.

        Returns:
            log psi(h c) (B, N, S); minus infinity for the blank and for what fits into no path.
        """
        either = self._before(torch.logaddexp(self.r_label, self.r_blank))
        repeat = self._before(self.r_blank)
        if tokens is not None:
            return self._extend(either, repeat, self.last, tokens)
        every = torch.arange(self.logp.size(1), device=self.logp.device).expand(self.logp.size(0), 1, -1)
        columns = [  # hypothesis by hypothesis: B x N x V x T at once may not fit into memory
            self._extend(either[:, n : n + 1], repeat[:, n : n + 1], self.last[:, n : n + 1], every)
            for n in range(either.size(1))
        ]
        return torch.cat(columns, dim=1)

    def _extend(self, either, repeat, last, tokens):
        """log psi (B, N, S) from the shifted forward variables (B, N, T) and the token ids (B, N, S)."""
        shape = tokens.shape
        rows = torch.arange(shape[0], device=tokens.device)[:, None]
        y = self.logp[rows, tokens.reshape(shape[0], -1)].view(*shape, -1)  # (B, N, S, T)
        phi = torch.where((tokens == last[..., None])[..., None], repeat[:, :, None], either[:, :, None])
        scores = (phi + y).masked_fill(~self.valid[:, None, None], -torch.inf).logsumexp(dim=-1)
        return scores.masked_fill(tokens == self.blank_id, -torch.inf)

    def end(self) -> torch.Tensor:
        """Log-probability that the utterance's label sequence is exactly the hypothesis (B, N)."""
        total = torch.logaddexp(self.r_label, self.r_blank)
        return total.gather(2, self.last_frame.expand(-1, total.size(1), 1))[..., 0]

    def select(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        """Go on with others: the n-th of utterance b is now ``parents[b, n]`` extended by ``tokens[b, n]``.

        Args:
            parents: indices of hypotheses (B, N').
            tokens: token ids (B, N').
        """
        rows = torch.arange(parents.size(0), device=parents.device)[:, None]
        label, blank = self.r_label[rows, parents], self.r_blank[rows, parents]  # (B, N', T)
        repeats = (tokens == self.last[rows, parents])[..., None]
        phi = self._before(torch.where(repeats, blank, torch.logaddexp(label, blank)))
        y = self.logp[rows, tokens]  # (B, N', T)
        # r_n[t] = (r_n[t-1] + phi[t-1]) y[t]: divided by the product of y[0..t] this is a running sum
        y_sum = y.cumsum(dim=-1)
        self.r_label = y_sum + torch.logcumsumexp(phi - (y_sum - y), dim=-1)
        # r_b[t] = (r_b[t-1] + r_n[t-1]) y_blank[t], and no path ends in a blank at frame 0
        before = torch.nn.functional.pad(self.r_label[..., :-1], (1, 0), value=-torch.inf)
        self.r_blank = self.blank_sum + torch.logcumsumexp(before - (self.blank_sum - self.blank), dim=-1)
        self.last = tokens
        self.empty = False

    def _before(self, phi: torch.Tensor) -> torch.Tensor:
        """``phi`` one frame earlier; before frame 0 only the empty hypothesis has been spelled."""
        return torch.nn.functional.pad(phi[..., :-1], (1, 0), value=0.0 if self.empty else -torch.inf)

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these (indices (B',))."""
        for name in ("valid", "logp", "blank", "blank_sum", "last_frame", "r_blank", "r_label", "last"):
            setattr(self, name, getattr(self, name)[utterances])
