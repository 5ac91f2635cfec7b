"""Language models that are asked for one token at a time and compute only what is new.

ESPnet's ``batch_score`` keeps the states of each hypothesis apart, cuts and stacks them at every step, and a
Transformer's keys and values are projected anew for the whole prefix. Here states are tensors over all
hypotheses (a Transformer's: `prefix`).

B: utterances, N: hypotheses of an utterance, D: features, V: tokens.
"""

import torch
from espnet2.lm.seq_rnn_lm import SequentialRNNLM
from espnet2.lm.transformer_lm import TransformerLM

from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.prefix import CachedStack, attend_prefix
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


class CachedTransformerLM(CachedStack):
    """Log-probabilities of the next token by an ESPnet ``TransformerLM``.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: TransformerLM):
        encoder = model.encoder
        super().__init__(
            encoder, encoder.encoders, lambda tokens: encoder.embed(model.embed(tokens)), model.decoder
        )

    def block(self, number, block, x, past):
        """As ESPnet's ``EncoderLayer.forward``; see `CachedStack.block`."""
        x, past = attend_prefix(block, x, past, block.concat_linear if block.concat_after else None)
        before = block.normalize_before
        x = x + block.feed_forward(block.norm2(x) if before else x)
        return (x if before else block.norm2(x)), past


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
