"""Training of the small masked language model on sentences without audio, on the common loop.

Legend: B sentences, S tokens with <sos/eos> at both ends, V tokens.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from espnet_ext.data.kaldi import read_table
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.masked_lm import OPTIONS_FILE, WEIGHTS_FILE, MaskedLM, tokens_digest, with_ends
from espnet_ext.train.averaging import average
from espnet_ext.train.data import Batch
from espnet_ext.train.keys import generator, key
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater


class TextData:
    """Sentences as token numbers; for the loop what `espnet_ext.train.data.SpeechData` is with speech.

    Args:
        path: `<id> <sentence>` lines.
        tokenizer: the recogniser's tokens.
        most: read no more sentences than this (0: all), spread over the file.

    Raises:
        UserError: an unreadable file, or one without sentences.
    """

    def __init__(self, path: Path, tokenizer: SpanTokenizer, most: int = 0):
        rows = {name: text for name, text in read_table(path, empty_values=True).rows.items() if text}
        if not rows:
            raise UserError(f"{path}: holds no sentences")
        if 0 < most < len(rows):
            names = list(rows)
            chosen = sorted(generator("sentences", most).choice(len(names), most, replace=False))
            rows = {names[i]: rows[names[i]] for i in chosen}
        self.end = len(tokenizer) - 1
        self._tokens = {name: np.array(tokenizer.encode(text), dtype=np.int32) for name, text in rows.items()}
        self.labels = {name: len(tokens) for name, tokens in self._tokens.items()}
        self.lengths = {name: len(tokens) + 2 for name, tokens in self._tokens.items()}

    def batches(
        self, order: Iterable[tuple[str, ...]], num_workers: int = 0, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """Batches of one pass in the given order."""
        return self.load(((0, names) for names in order), num_workers, device)

    def load(
        self,
        order: Iterable[tuple[int, tuple[str, ...]]],
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """Batches in the given order; there is nothing to load, so that no process runs ahead."""
        for _, names in order:
            ids, lengths = with_ends([self._tokens[name] for name in names], self.end)
            yield Batch(list(names), {"ids": ids.to(device), "lengths": lengths.to(device)})


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
        torch.save(state, temporary)
    about = {"model": model_options, "tokens": tokens_digest(tokenizer.tokens), "epochs": sorted(epochs)}
    atomic_write_text(exp_dir / OPTIONS_FILE, yaml.safe_dump(about, sort_keys=False))
