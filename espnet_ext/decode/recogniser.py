"""A model and a search: from samples to hypotheses, from hypotheses to text.

B: utterances, T: frames, D: features.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_ext.decode.attention_greedy import attention_greedy
from espnet_ext.decode.beam import beam_search
from espnet_ext.decode.cached_decoder import check_supported
from espnet_ext.decode.cached_lm import check_lm
from espnet_ext.decode.ctc_greedy import ctc_greedy
from espnet_ext.decode.hypothesis import Hypothesis
from espnet_ext.decode.options import DecodeOptions
from espnet_ext.decode.transducer import check_transducer, encode_transducer, search_transducer
from espnet_ext.errors import UserError


class Recogniser:
    """Turns batches of utterances into ranked hypotheses.

    Args:
        model: an ESPnetASRModel in eval mode, on its device.
        options: method and its options.
        lm: an ESPnet language model in eval mode on the same device (see `espnet_ext.lm.load`).

    Raises:
        UserError: the model lacks what the method needs, or there is no language model to weigh.
    """

    def __init__(self, model: ESPnetASRModel, options: DecodeOptions, lm: torch.nn.Module | None = None):
        self.model, self.options, self.lm = model, options, lm
        self.device = next(model.parameters()).device
        self.transducer = isinstance(model, ESPnetASRTransducerModel)
        if self.transducer:
            check_transducer(model, options, lm)
            return
        if getattr(model, "use_transducer_decoder", False):
            raise UserError(
                "this model is a transducer; the searches here are for CTC and attention decoders"
            )
        if options.method.startswith("transducer"):
            raise UserError(
                f"method {options.method} is for stand-alone transducers, and this model is none; use "
                "`method: joint`, attention_greedy or ctc_greedy"
            )
        joint = options.method == "joint"
        if model.ctc is None and (options.method == "ctc_greedy" or joint and options.ctc_weight > 0):
            raise UserError(
                f"method {options.method} needs CTC, and this model has none (trained with ctc_weight 0); "
                "use `method: attention_greedy`, or `method: joint` with `ctc_weight: 0`"
            )
        if options.method == "attention_greedy" or joint and options.ctc_weight < 1:
            if model.decoder is None:
                raise UserError(
                    f"method {options.method} needs an attention decoder, and this model has none (trained "
                    "with ctc_weight 1); use `method: ctc_greedy`, or `method: joint` with `ctc_weight: 1`"
                )
            check_supported(model.decoder)
        check_lm(options, lm)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> list[list[Hypothesis]]:
        """Recognise one batch.

        Args:
            inputs: samples (T,) or features (T, D) of each utterance.

        Returns:
            Hypotheses of each utterance, the best first; an empty one where the utterance is too short for
            the encoder to see a single frame.

        Raises:
            UserError: the encoder's output is not finite.
        """
        return self.each_way(inputs, [self.options])[0]

    @torch.inference_mode()
    def each_way(
        self, inputs: list[np.ndarray], ways: Sequence[DecodeOptions]
    ) -> list[list[list[Hypothesis]]]:
        """Recognise one batch in several ways; the encoder listens once.

        Args:
            inputs: see :meth:`__call__`.
            ways: options of each, which need no more of the model than the recogniser's own do.

        Returns:
            What :meth:`__call__` returns, for each way.
        """
        lengths = torch.tensor([len(each) for each in inputs])
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(each) for each in inputs], batch_first=True
        )
        try:
            encode = partial(encode_transducer, self.model) if self.transducer else self.model.encode
            memory, lens = encode(padded.to(self.device), lengths.to(self.device))
        except TooShortUttError:  # raised only where all are too short: the padded length counts
            return [[[Hypothesis((), 0.0)] for _ in inputs] for _ in ways]
        if isinstance(memory, tuple):  # with the outputs of intermediate CTC layers
            memory = memory[0]
        if not torch.isfinite(memory).all():
            raise UserError(
                "the encoder's output holds NaN or infinite values: the model is damaged, or its training "
                "diverged (see the losses in history.csv of its experiment)"
            )
        heard = (lens > 0).nonzero()[:, 0]
        results = [[[Hypothesis((), 0.0)] for _ in inputs] for _ in ways]
        if len(heard):
            for options, each in zip(ways, results, strict=True):
                found = self._search(memory[heard], lens[heard], options)
                for index, hypotheses in zip(heard.tolist(), found, strict=True):
                    each[index] = hypotheses
        return results

    def _search(
        self, memory: torch.Tensor, lens: torch.Tensor, options: DecodeOptions
    ) -> list[list[Hypothesis]]:
        """Hypotheses from encoder outputs (B, T, D) and lengths (B,)."""
        model = self.model
        if self.transducer:
            return search_transducer(model, memory, lens, options, self.lm)
        if options.method == "ctc_greedy":
            found = ctc_greedy(model.ctc.log_softmax(memory), lens, model.blank_id)
            return [[hypothesis] for hypothesis in found]
        if options.method == "attention_greedy":
            found = attention_greedy(
                model.decoder,
                memory,
                lens,
                model.sos,
                model.eos,
                model.blank_id,
                options.maxlenratio,
                options.minlenratio,
            )
            return [[hypothesis] for hypothesis in found]
        return beam_search(
            model.decoder, model.ctc, memory, lens, model.sos, model.eos, model.blank_id, options, self.lm
        )


class TokenText:
    """Token ids to tokens and text, as ESPnet's own inference does it.

    Args:
        model_dir: folder of an exported model, which its paths are relative to.
        config: the model's configuration.
    """

    def __init__(self, model_dir: Path, config: dict):
        self.token_list = config["token_list"]
        token_type = config.get("token_type") or "char"
        bpemodel = config.get("bpemodel")
        if token_type == "bpe" and bpemodel is None:
            raise UserError(
                f"{model_dir / 'config.yaml'}: token_type is bpe, and no bpemodel is named; export again"
            )
        self.tokenizer = build_tokenizer(token_type, bpemodel=str(model_dir / bpemodel) if bpemodel else None)

    def tokens(self, ids: tuple[int, ...]) -> list[str]:
        """Names of the tokens."""
        return [self.token_list[each] for each in ids]

    def text(self, ids: tuple[int, ...]) -> str:
        """The sentence, white space normalised."""
        return " ".join(self.tokenizer.tokens2text(self.tokens(ids)).split())
