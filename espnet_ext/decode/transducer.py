"""Searches for ESPnet's stand-alone transducers, for all utterances of a batch at once.

The search is alignment-length synchronous (Saon et al. 2020, arXiv 2010.10024, algorithm 1; ESPnet's `alsd`):
step i looks at nodes (t, u) with t + u = i, so that hypotheses of all utterances advance together and those
of equal labels meet. With a beam of 1 it is greedy. Results are those of ESPnet's `search_type: alsd` with
the same beam. A language model adds its log-probability to that of a label (shallow fusion).

Legend: B utterances, K hypotheses, T frames, S steps, J joint space, V tokens, N hypotheses of a batch.
"""

import torch
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

from espnet_ext.asr.transducer_encoder import TooShort
from espnet_ext.decode.cached_lm import check_lm
from espnet_ext.decode.ctc_greedy import ctc_greedy
from espnet_ext.decode.hypothesis import Hypothesis
from espnet_ext.decode.limits import length_limits
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.errors import UserError

#: Methods of `DecodeOptions` that a transducer has.
METHODS = ("transducer", "transducer_greedy", "ctc_greedy")
BLANK = 0


def check_transducer(
    model: ESPnetASRTransducerModel, options: DecodeOptions, lm: torch.nn.Module | None = None
) -> None:
    """Refuse what a transducer cannot be asked.

    Raises:
        UserError: another method, a prediction network without a batched step, or no language model to
            weigh.
    """
    if options.method not in METHODS:
        raise UserError(
            f"method {options.method} is for CTC and attention decoders, and this model is a transducer; "
            "decode with `method: transducer` or transducer_greedy (conf/decode_transducer.yaml)"
        )
    if options.method == "ctc_greedy" and not model.use_auxiliary_ctc:
        raise UserError(
            "method ctc_greedy needs CTC, and this transducer was trained without (auxiliary_ctc_weight 0); "
            "use `method: transducer_greedy`"
        )
    if not isinstance(model.decoder, (RNNDecoder, StatelessDecoder)):
        raise UserError(
            f"decoder {type(model.decoder).__name__}: the transducer search knows rnn and stateless; decode "
            "the exported model with ESPnet's own espnet2.bin.asr_transducer_inference"
        )
    check_lm(options, lm)


def encode_transducer(
    model: ESPnetASRTransducerModel, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder outputs (B, T, D) and their lengths (B,), 0 for an utterance that is too short to hear."""
    try:
        return model.encode(speech, lengths)
    except TooShort:
        if len(lengths) == 1:
            return speech.new_zeros(1, 1, model.encoder.output_size), torch.zeros_like(lengths)
    # The encoder refuses the batch for one of its utterances; what it computes does not depend on the batch.
    alone = [
        encode_transducer(model, row[None, : int(length)], length[None])
        for row, length in zip(speech, lengths, strict=True)
    ]
    memory = torch.nn.utils.rnn.pad_sequence([found[0] for found, _ in alone], batch_first=True)
    return memory, torch.cat([length for _, length in alone])


def search_transducer(
    model: ESPnetASRTransducerModel,
    memory: torch.Tensor,
    lens: torch.Tensor,
    options: DecodeOptions,
    lm: torch.nn.Module | None = None,
) -> list[list[Hypothesis]]:
    """Hypotheses from encoder outputs, the best first.

    Args:
        model: in evaluation mode.
        memory: (B, T, D).
        lens: (B,) frames, each at least one.
        options: see `METHODS`.
        lm: an ESPnet language model over the same tokens, for a positive `lm_weight`.
    """
    if options.method == "ctc_greedy":
        found = ctc_greedy(model.ctc_lin(memory).log_softmax(-1), lens, BLANK)
        return [[hypothesis] for hypothesis in found]
    beam = options.beam_size if options.method == "transducer" else 1
    _, most = length_limits(lens, options.maxlenratio, 0)
    most = torch.minimum(most, lens - 1)  # as ESPnet's u_max
    nbest = min(options.nbest, beam)
    weighed = lm if options.lm_weight > 0 else None
    return _Search(model, memory, lens, most, beam, weighed, options.lm_weight).run(nbest)


class _Predictor:
    """The prediction network, one label at a time, for N hypotheses."""

    def __init__(self, decoder: RNNDecoder | StatelessDecoder):
        self.decoder = decoder

    def step(
        self, labels: torch.Tensor, state: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Output (N, D) behind labels (N,), and the state behind them: tensors (layers, N, D)."""
        embedded = self.decoder.embed(labels[:, None])
        if isinstance(self.decoder, StatelessDecoder):
            return embedded[:, 0], []
        memory, cell = (*state, None)[:2]
        out, (memory, cell) = self.decoder.rnn_forward(embedded, (memory, cell))
        return out[:, 0], [memory] if cell is None else [memory, cell]

    def start(self, count: int, device: torch.device) -> list[torch.Tensor]:
        """State of `count` hypotheses without labels."""
        self.decoder.set_device(device)
        state = self.decoder.init_state(count)
        return [] if state is None else [part for part in state if part is not None]


def next_token(lm: torch.nn.Module, tokens: torch.Tensor, count: torch.Tensor, sos: int) -> torch.Tensor:
    """Log-probabilities of the next token, from the whole prefix.

    Hypotheses grow at different steps, so that what a language model kept of each would have another length.

    Args:
        lm: in evaluation mode.
        tokens: (N, S) labels, padding behind.
        count: (N,) how many there are.
        sos: token that starts a sentence.

    Returns:
        (N, V).
    """
    prefix = torch.nn.functional.pad(tokens[:, : int(count.max())], (1, 0), value=sos)
    there = torch.arange(prefix.size(1), device=prefix.device) <= count[:, None]
    scores, _ = lm(prefix.masked_fill(~there, 0), None)
    return scores[torch.arange(len(count), device=count.device), count].log_softmax(-1)


class _Search:
    """State of the search; dead hypotheses have the score -inf."""

    def __init__(
        self, model, memory, lens: torch.Tensor, most: torch.Tensor, beam: int, lm, lm_weight: float
    ):
        self.joint, self.predictor = model.joint_network, _Predictor(model.decoder)
        self.lens, self.steps, self.beam = lens, lens + most, beam
        self.vocabulary = self.joint.lin_out.out_features
        self.encoded = self.joint.lin_enc(memory)  # (B, T, J)
        batch, device = len(lens), memory.device
        self.rows = torch.arange(batch, device=device)[:, None]
        start = self.predictor.start(batch * beam, device)
        first = torch.full((batch * beam,), BLANK, dtype=torch.long, device=device)
        out, self.state = self.predictor.step(first, start)
        self.predicted = self.joint.lin_dec(out)  # (B K, J)
        self.tokens = torch.zeros(batch, beam, int(self.steps.max()), dtype=torch.long, device=device)
        self.count = torch.zeros(batch, beam, dtype=torch.long, device=device)  # of labels, u
        self.lm, self.lm_weight = lm, lm_weight
        if lm is not None:
            self.following = next_token(lm, self.tokens[:, 0], self.count[:, 0], self.vocabulary - 1)
            self.following = self.following.repeat_interleave(beam, 0)  # (B K, V)
        # Sums over alignments in float64, as in ESPnet, whose scores are Python's own numbers.
        self.score = torch.full((batch, beam), -torch.inf, dtype=torch.float64, device=device)
        self.score[:, 0] = 0.0
        self.ended = torch.full((batch, beam), -torch.inf, dtype=torch.float64, device=device)
        self.ended_tokens, self.ended_count = self.tokens.clone(), self.count.clone()

    def run(self, nbest: int) -> list[list[Hypothesis]]:
        """Search to the end."""
        for number in range(int(self.steps.max())):
            frame = number - self.count  # (B, K)
            alive = self.score.isfinite() & (frame < self.lens[:, None]) & (number < self.steps[:, None])
            if not alive.any():
                break
            blank, labels, numbers = self._extend(frame, alive)
            self._end(blank.masked_fill(frame != self.lens[:, None] - 1, -torch.inf))
            self._choose(blank, labels, numbers, alive.any(1))
        return [self._hypotheses(row, nbest) for row in range(len(self.lens))]

    def _extend(self, frame: torch.Tensor, alive: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Scores of each hypothesis with a blank (B, K), with its best labels (B, K, W), and these labels."""
        width = min(self.beam, self.vocabulary - 1)
        encoded = self.encoded[self.rows.expand_as(frame)[alive], frame[alive]]
        scores = self.joint.lin_out(
            self.joint.joint_activation(encoded + self.predicted[alive.flatten()])
        ).log_softmax(-1)  # (N, V)
        best, numbers = scores[:, 1:].topk(width, dim=-1)
        best = best.double()
        if self.lm is not None:
            best = best + self.lm_weight * self.following[alive.flatten()].gather(1, numbers + 1)
        before = self.score[alive]
        blank = torch.full_like(self.score, -torch.inf)
        blank[alive] = before + scores[:, BLANK].double()
        labels = blank.new_full((*blank.shape, width), -torch.inf)
        labels[alive] = before[:, None] + best
        chosen = self.count.new_zeros(labels.shape)
        chosen[alive] = numbers + 1
        return blank, labels, chosen

    def _end(self, score: torch.Tensor) -> None:
        """Keep the best of the hypotheses that have read the last frame; no two of them have equal labels."""
        self.ended, order = torch.cat([self.ended, score], 1).topk(self.beam, dim=1)
        self.ended_tokens = torch.cat([self.ended_tokens, self.tokens], 1)[self.rows, order]
        self.ended_count = torch.cat([self.ended_count, self.count], 1)[self.rows, order]

    def _choose(self, blank, labels, numbers, going: torch.Tensor) -> None:
        """The best extensions become the hypotheses of the next step, in the utterances that go on."""
        width = labels.size(2) + 1
        candidates = torch.cat([blank[..., None], labels], 2).flatten(1)  # (B, K (W + 1))
        score, order = candidates.topk(self.beam, dim=1)
        parent, which = order.div(width, rounding_mode="floor"), order % width
        emitted = torch.where(which > 0, numbers[self.rows, parent, (which - 1).clamp_min(0)], BLANK)
        emitted = emitted.masked_fill(~score.isfinite(), BLANK)
        count, tokens = self.count[self.rows, parent], self.tokens[self.rows, parent]
        grown = tokens.scatter(2, count.clamp_max(tokens.size(2) - 1)[..., None], emitted[..., None])
        tokens = torch.where((emitted > 0)[..., None], grown, tokens)
        count = count + (emitted > 0)
        score = self._merge(score, tokens, count)

        source = torch.where(going[:, None], parent, torch.arange(self.beam, device=parent.device))
        source = (self.rows * self.beam + source).flatten()
        self.predicted = self.predicted[source]
        if self.lm is not None:
            self.following = self.following[source]
        self.state = [part[:, source] for part in self.state]
        grows = ((emitted > 0) & going[:, None]).flatten()
        if grows.any():
            out, state = self.predictor.step(
                emitted.flatten()[grows], [part[:, grows] for part in self.state]
            )
            self.predicted[grows] = self.joint.lin_dec(out)
            if self.lm is not None:
                self.following[grows] = next_token(
                    self.lm, tokens.flatten(0, 1)[grows], count.flatten()[grows], self.vocabulary - 1
                )
            for part, new in zip(self.state, state, strict=True):
                part[:, grows] = new
        self.score = torch.where(going[:, None], score, self.score)
        self.count = torch.where(going[:, None], count, self.count)
        self.tokens = torch.where(going[:, None, None], tokens, self.tokens)

    def _merge(self, score: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Add up the probabilities of hypotheses with equal labels, in the better one's place: (B, K)."""
        if self.beam == 1:
            return score
        there = score.isfinite()
        same = (tokens[:, :, None] == tokens[:, None]).all(-1) & (count[:, :, None] == count[:, None])
        same &= there[:, :, None] & there[:, None]  # (B, K, K)
        sums = score[:, None].masked_fill(~same, -torch.inf).logsumexp(-1)
        again = same.tril(-1).any(-1)  # an earlier one has the same labels
        return torch.where(there & ~again, sums, -torch.inf)

    def _hypotheses(self, row: int, nbest: int) -> list[Hypothesis]:
        """Of one utterance: those that ended, else, cut off at the length limit, those that did not."""
        ended = bool(self.ended[row, 0].isfinite())
        score, tokens, count = (
            (self.ended[row], self.ended_tokens[row], self.ended_count[row])
            if ended
            else (self.score[row], self.tokens[row], self.count[row])
        )
        score, order = score.sort(descending=True, stable=True)
        found = [
            Hypothesis(tuple(tokens[i, : count[i]].tolist()), value, truncated=not ended)
            for value, i in zip(score.tolist(), order.tolist(), strict=True)
            if value > float("-inf")
        ]
        return found[:nbest]
