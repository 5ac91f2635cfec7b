"""Language models that are asked for one token at a time and compute only what is new.

ESPnet's ``batch_score`` keeps the states of each hypothesis apart, cuts and stacks them at every step, and a
Transformer's keys and values are projected anew for the whole prefix. Here states are tensors over all
hypotheses.

B: utterances, N: hypotheses of an utterance, U: tokens so far, D: features, H: heads, K: D / H, V: tokens.
"""

import torch
from espnet2.lm.seq_rnn_lm import SequentialRNNLM
from espnet2.lm.transformer_lm import TransformerLM

from espnet_ext.decode.cached_decoder import attend_prefix
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.errors import UserError


def cached_lm(model: torch.nn.Module) -> "CachedTransformerLM | CachedRecurrentLM":
    """The scorer of an ESPnet language model in eval mode.

    Raises:
        UserError: a kind that is not known here.
    """
    if isinstance(model, TransformerLM):
        return CachedTransformerLM(model)
    if isinstance(model, SequentialRNNLM):
        return CachedRecurrentLM(model)
    raise UserError(
        f"batched decoding knows ESPnet's language models `lm: transformer` and `lm: seq_rnn`, not "
        f"{type(model).__name__}"
    )


def check_lm(options: DecodeOptions, lm: torch.nn.Module | None) -> None:
    """Refuse a weight of a language model that is not there, or cannot be asked.

    Raises:
        UserError: see there.
    """
    if options.lm_weight > 0:
        if lm is None:
            raise UserError(
                f"lm_weight {options.lm_weight}: there is no language model; give its folder with "
                "--lm_dir (in a recipe: --use_lm true, and stage 6 trains one)"
            )
        cached_lm(lm)


class CachedTransformerLM:
    """Log-probabilities of the next token by an ESPnet ``TransformerLM``.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: TransformerLM):
        self.model = model
        self.history: list[tuple[torch.Tensor, torch.Tensor]] = []  # 2 x (B, N, H, U, K) a layer

    def step(self, prefix: torch.Tensor) -> torch.Tensor:
        """Read the last token of every prefix (the ones before were read by earlier calls).

        Args:
            prefix: token ids, ``<sos>`` first (B, N, U).

        Returns:
            Log-probabilities of the next token (B, N, V).
        """
        utterances, hypotheses, length = prefix.shape
        encoder = self.model.encoder
        # The whole prefix, since ESPnet's positional encodings know no offset; it costs next to nothing.
        embedded = encoder.embed(self.model.embed(prefix.reshape(-1, length)))
        x = embedded[:, -1].view(utterances, hypotheses, -1)  # (B, N, D)
        history = []
        for number, layer in enumerate(encoder.encoders):
            x, now = self._layer(layer, x, self.history[number] if self.history else None)
            history.append(now)
        self.history = history
        if encoder.normalize_before:
            x = encoder.after_norm(x)
        return torch.log_softmax(self.model.decoder(x), dim=-1)

    def _layer(self, layer, x, past):
        """One block as ESPnet's EncoderLayer.forward computes it for the last position."""
        before = layer.normalize_before
        query = layer.norm1(x) if before else x
        attended, past = attend_prefix(layer.self_attn, query, past)
        if layer.concat_after:
            attended = layer.concat_linear(torch.cat((query, attended), dim=-1))
        x = x + attended
        x = x if before else layer.norm1(x)
        x = x + layer.feed_forward(layer.norm2(x) if before else x)
        return (x if before else layer.norm2(x)), past

    def select(self, parents: torch.Tensor) -> None:
        """Continue from other hypotheses: the n-th of utterance b is now a copy of ``parents[b, n]``.

        Args:
            parents: indices of hypotheses (B, N').
        """
        rows = torch.arange(parents.size(0), device=parents.device)[:, None]
        self.history = [(key[rows, parents], value[rows, parents]) for key, value in self.history]

    def keep(self, utterances: torch.Tensor) -> None:
        """Forget all utterances but these (indices (B',))."""
        self.history = [(key[utterances], value[utterances]) for key, value in self.history]


class CachedRecurrentLM:
    """Log-probabilities of the next token by an ESPnet ``SequentialRNNLM``.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: SequentialRNNLM):
        self.model = model
        self.states: list[torch.Tensor] = []  # each (B, N, layers, D): h, and c of an LSTM

    def step(self, prefix: torch.Tensor) -> torch.Tensor:
        """See :meth:`CachedTransformerLM.step`."""
        shape = prefix.shape[:2]
        # The network wants (layers, B x N, D).
        before = [state.flatten(0, 1).transpose(0, 1).contiguous() for state in self.states]
        hidden = None if not before else before[0] if len(before) == 1 else tuple(before)
        scores, after = self.model(prefix[..., -1].reshape(-1, 1), hidden)
        after = after if isinstance(after, tuple) else (after,)
        self.states = [state.transpose(0, 1).unflatten(0, shape) for state in after]
        return torch.log_softmax(scores[:, 0], dim=-1).view(*shape, -1)

    def select(self, parents: torch.Tensor) -> None:
        """See :meth:`CachedTransformerLM.select`."""
        rows = torch.arange(parents.size(0), device=parents.device)[:, None]
        self.states = [state[rows, parents] for state in self.states]

    def keep(self, utterances: torch.Tensor) -> None:
        """See :meth:`CachedTransformerLM.keep`."""
        self.states = [state[utterances] for state in self.states]
