"""Scheduled sampling for Transformer decoders: labels of the history are replaced by the model's own.

A Transformer decoder reads its whole history at once, so there are two passes (Mihaylova & Martins 2019): the
first one reads the transcript and says, without gradient, what it would have written at every position; each
label of the history is replaced by that with probability p (Bengio et al. 2015); the second pass, with the
gradient, reads the mixture. What it should write remains the transcript.

The first pass is in evaluation mode: it says what the model would say when it decodes, and draws no random
numbers, so that p = 0 is teacher forcing to the bit.

Legend: B batch, T encoder frames, D encoder size, U labels with <eos>, V tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from espnet_ext.train.keys import generator

DRAWS = ("sample", "argmax")


@contextmanager
def reading(decoder: torch.nn.Module, history: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let a decoder read another history than it is given, as long as the context lasts.

    Args:
        decoder: an ESPnet Transformer decoder, called as `decoder(memory, memory_lens, inputs, input_lens)`.
        history: function of these four that returns what is read in place of `inputs`, (B, U).
    """

    def exchange(_, arguments: tuple) -> tuple:
        memory, memory_lens, inputs, input_lens = arguments
        return memory, memory_lens, history(memory, memory_lens, inputs, input_lens), input_lens

    handle = decoder.register_forward_pre_hook(exchange)
    try:
        yield
    finally:
        handle.remove()


def first_pass(decoder: torch.nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
    """Scores (B, U, V) of a decoder in evaluation mode, without gradient; its modes are left as they were."""
    training = [module for module in decoder.modules() if module.training]
    decoder.eval()
    # What autocast converts here has no gradient; from its cache the second pass would take it like that.
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            # Not by calling it, which would run the hook of `reading` again.
            return decoder.forward(*arguments)[0]
    finally:
        torch.set_autocast_cache_enabled(cached)
        for module in training:
            module.training = True


def draw_uniform(keys: Sequence[int], length: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Two numbers in [0, 1) for every position of every utterance.

    They depend on the utterance's key and the position, not on the padded length or the batch.

    Args:
        keys: B keys.
        length: U.

    Returns:
        (B, U, 2): the first decides whether a label is replaced, the second by which.
    """
    rows = [generator(int(number), "history").random((length, 2), dtype=np.float32) for number in keys]
    return torch.from_numpy(np.stack(rows)).to(device)


def chosen_tokens(
    scores: torch.Tensor, uniform: torch.Tensor, never: Sequence[int], draw: str = "sample"
) -> torch.Tensor:
    """What the first pass writes at every position.

    Args:
        scores: (B, U, V) before the softmax.
        uniform: (B, U) in [0, 1), for `sample`.
        never: tokens that no history holds after its start: <sos/eos>, which ends decoding, and the blank.
        draw: `sample` from the posterior (inverse of its distribution function), or `argmax`.

    Returns:
        (B, U) tokens.

    Raises:
        ValueError: another `draw`.
    """
    if draw not in DRAWS:
        raise ValueError(f"draw {draw!r}: expected one of {', '.join(DRAWS)}")
    scores = scores.detach().float().clone()
    scores[..., list(never)] = -torch.inf
    if draw == "argmax":
        return scores.argmax(-1)
    distribution = torch.softmax(scores, dim=-1).cumsum(-1)  # (B, U, V)
    total = distribution[..., -1]
    # Below the total even after rounding: the token found has then a posterior above zero.
    level = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (distribution <= level[..., None]).sum(-1)


def mixed_history(
    inputs: torch.Tensor,
    input_lens: torch.Tensor,
    tokens: torch.Tensor,
    uniform: torch.Tensor,
    probability: float,
) -> torch.Tensor:
    """Replace labels of a history with probability p.

    Args:
        inputs: (B, U), <sos> and the labels, padded.
        input_lens: (B,) with <sos>.
        tokens: (B, U) what the first pass writes: ``tokens[:, n]`` follows ``inputs[:, n]``.
        uniform: (B, U) in [0, 1); the label at position n is replaced where ``uniform[:, n]`` is below p.
        probability: p; 0 leaves all as it is, 1 replaces all but <sos>.

    Returns:
        (B, U).
    """
    proposed = torch.cat([inputs[:, :1], tokens[:, :-1]], dim=1)
    position = torch.arange(inputs.size(1), device=inputs.device)
    inside = (position >= 1) & (position < input_lens.to(inputs.device)[:, None])  # (B, U)
    return torch.where(inside & (uniform < probability), proposed, inputs)


def own_history(
    decoder: torch.nn.Module,
    keys: Sequence[int],
    probability: float,
    never: Sequence[int],
    draw: str = "sample",
    keep: Callable[[torch.Tensor], None] | None = None,
) -> Callable[..., torch.Tensor]:
    """The history for `reading`, of both the transcript and what the decoder itself writes.

    Args:
        decoder: the one that is asked.
        keys: B random keys, one an utterance.
        probability, never, draw: as `mixed_history` and `chosen_tokens`.
        keep: is told the history, (B, U), so that others can read the same.
    """

    def history(memory, memory_lens, inputs, input_lens) -> torch.Tensor:
        scores = first_pass(decoder, memory, memory_lens, inputs, input_lens)
        uniform = draw_uniform(keys, inputs.size(1), inputs.device)
        tokens = chosen_tokens(scores, uniform[..., 1], never, draw)
        result = mixed_history(inputs, input_lens, tokens, uniform[..., 0], probability)
        if keep is not None:
            keep(result)
        return result

    return history
