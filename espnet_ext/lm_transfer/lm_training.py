"""Training of the small masked language model on sentences without audio, on the common loop.

Legend: B sentences, S tokens with <sos/eos> at both ends, V tokens.
"""

from pathlib import Path

import torch
import yaml

from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.masked_lm import OPTIONS_FILE, WEIGHTS_FILE, MaskedLM, tokens_digest
from espnet_ext.train.averaging import average
from espnet_ext.train.checkpoint import save_tensors
from espnet_ext.train.keys import generator, key
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater


def mask_tokens(
    ids: torch.Tensor, lengths: torch.Tensor, keys: list[int], rate: float, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the tokens that are to be guessed, and hide them (Devlin et al. 2019, section 3.1).

    Of every sentence `rate` of the tokens, at least one; of them 80 % become the mask, 10 % another token,
    10 % stay. The ends of a sentence are never chosen.

    Args:
        ids: (B, S).
        lengths: (B,).
        keys: one a sentence: its choice does not depend on its batch.
        rate: part of a sentence that is chosen.
        vocabulary: V, which is also the mask's number.

    Returns:
        what the model reads (B, S), and which positions it guesses (B, S) bool.
    """
    hidden, chosen = ids.cpu().clone(), torch.zeros(ids.shape, dtype=torch.bool)
    for row, (length, number) in enumerate(zip(lengths.tolist(), keys, strict=True)):
        draw = generator(int(number), "masked tokens")
        inner = length - 2
        if inner < 1:
            continue
        places = 1 + draw.permutation(inner)[: max(1, round(rate * inner))]
        fate = draw.random(len(places))
        others = draw.integers(2, vocabulary - 1, len(places))  # no <blank>, <unk>, <sos/eos>
        for place, luck, other in zip(places.tolist(), fate, others.tolist(), strict=True):
            chosen[row, place] = True
            if luck < 0.9:
                hidden[row, place] = vocabulary if luck < 0.8 else other
    return hidden.to(ids.device), chosen.to(ids.device)


class MaskedLMMethod(Method):
    """Cross-entropy of the masked tokens, as a mean over those of the optimiser step.

    Args:
        model: the LM.
        updater: over its parameters.
        rate: part of a sentence that is masked.
    """

    def __init__(self, model: MaskedLM, updater: Updater, rate: float = 0.15):
        super().__init__({"model": model}, {"model": updater})
        self.model, self.rate = model, rate
        self._turns = (Turn("model", (Part("labelled", self.part),), ("model",)),)

    def turns(self, position: Position):
        return self._turns

    def part(self, micro: MicroBatch) -> Loss:
        """Loss of a micro-batch of sentences."""
        ids, lengths = micro.batch.tensors["ids"], micro.batch.tensors["lengths"]
        keys = micro.keys or [key("validation", name) for name in micro.batch.utterances]
        hidden, chosen = mask_tokens(ids, lengths, keys, self.rate, self.model.vocabulary)
        scores = self.model.scores(self.model.states(hidden, lengths)[-1][chosen]).float()
        total = torch.nn.functional.cross_entropy(scores, ids[chosen], reduction="sum")
        count = len(scores)
        right = (scores.argmax(-1) == ids[chosen]).sum()
        # About `rate` of the step's tokens are masked: a denominator that does not depend on how it is cut.
        denominator = max(1.0, self.rate * (micro.totals.labels - micro.totals.utterances))
        figures = {"loss": (total.detach(), count), "acc": (right, count)}
        return Loss(total / denominator, figures)

    def validate(self, micro: MicroBatch) -> Figures:
        return self.part(micro).figures


def write_lm(exp_dir: Path, epochs: list[int], tokenizer: SpanTokenizer, model_options: dict) -> None:
    """Average the best epochs into `lm.pth`, and say in `lm.yaml` how to build it.

    Args:
        exp_dir: the finished training, and where the files go.
        epochs: to average.
        tokenizer: whose tokens the LM has.
        model_options: arguments of `MaskedLM` besides the vocabulary.
    """
    state = average([exp_dir / f"{epoch}epoch.pth" for epoch in epochs])
    with atomic_path(exp_dir / WEIGHTS_FILE) as temporary:
        save_tensors(state, temporary)
    about = {"model": model_options, "tokens": tokens_digest(tokenizer.tokens), "epochs": sorted(epochs)}
    atomic_write_text(exp_dir / OPTIONS_FILE, yaml.safe_dump(about, sort_keys=False))
