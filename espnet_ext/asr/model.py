"""The joint CTC/attention recogniser, with its sums and its inner outputs in reach of the methods.

Legend: B batch, N samples, T encoder frames, U labels with <eos>, V tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from espnet.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_ext.asr.encoder import make_exact
from espnet_ext.asr.frontend import ExactFrontend
from espnet_ext.asr.layers import fuse
from espnet_ext.asr.specaug import KeyedSpecAug
from espnet_ext.errors import UserError
from espnet_ext.train.precision import full_precision


@dataclass
class ASROutput:
    """What a forward pass knows. Losses are sums over the batch and carry their gradient."""

    encoder_out: torch.Tensor  # (B, T, D)
    encoder_out_lens: torch.Tensor  # (B,)
    ctc_sum: torch.Tensor | None  # scalar: sum over utterances of -log P_ctc(text)
    att_sum: torch.Tensor | None  # scalar: sum over labels of the label-smoothed cross-entropy
    decoder_out: torch.Tensor | None  # (B, U, V) scores before the softmax
    targets: torch.Tensor | None  # (B, U) labels with <eos>, padded with ignore_id
    labels: int  # number of labels, <eos> included
    correct: torch.Tensor | int  # how many of them score highest; stays on its device
    decoder_hidden: torch.Tensor | None = None  # (B, U, D) what the output layer reads; Transformers only


class ASRModel(ESPnetASRModel):
    """ESPnetASRModel with the same parameters that returns sums and inner outputs.

    A model is not built as this class but turned into it by `adopt`, so that its construction and its
    configuration stay plain ESPnet.
    """

    keyed_specaug: KeyedSpecAug | None = None

    def encode_keyed(self, speech: torch.Tensor, lengths: torch.Tensor, keys: Sequence[int] | None):
        """Front end, normalisation, masks and encoder.

        Args:
            speech: (B, N) samples, or (B, T, D) features where the model has no front end.
            lengths: (B,) true lengths.
            keys: one random key an utterance for SpecAugment; None masks nothing.

        Returns:
            encoder output (B, T, D) and its lengths (B,).

        Raises:
            UserError: even the longest utterance is too short for subsampling.
        """
        features, lengths = self._extract_feats(speech, lengths)
        if self.normalize is not None:
            features, lengths = self.normalize(features, lengths)
        if keys is not None and self.keyed_specaug is not None:
            # After normalisation zero is the mean, as in the SpecAugment paper. ESPnet masks before it, where
            # zero is a loud value.
            features = self.keyed_specaug(features, lengths, keys)
        try:
            output, lengths, _ = self.encoder(features, lengths)
        except TooShortUttError as error:
            raise UserError(
                f"an utterance of {error.actual_size} frames is too short for subsampling, which needs "
                f"{error.limit}; raise --min_wav_duration (stage 3)"
            ) from None
        return output, lengths

    def outputs(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        keys: Sequence[int] | None = None,
    ) -> ASROutput:
        """Forward pass with both branches under teacher forcing.

        Args:
            speech, speech_lengths: as `encode_keyed`.
            text: (B, U - 1) labels, padded with -1.
            text_lengths: (B,).
            keys: as `encode_keyed`.
        """
        batch = speech.size(0)
        text = text.masked_fill(text == -1, self.ignore_id)[:, : int(text_lengths.max())]
        encoder_out, encoder_out_lens = self.encode_keyed(speech, speech_lengths, keys)
        ctc_sum = att_sum = decoder_out = targets = hidden = None
        labels = correct = 0
        if self.ctc is not None:
            # ESPnet's CTC and label-smoothing losses are sums divided by the number of utterances.
            with full_precision(encoder_out.device):
                ctc_sum = self.ctc(encoder_out.float(), encoder_out_lens, text, text_lengths) * batch
        if self.decoder is not None and self.ctc_weight != 1.0:
            inputs, targets = add_sos_eos(text, self.sos, self.eos, self.ignore_id)  # (B, U)
            reads = encoder_out, encoder_out_lens, inputs, text_lengths + 1
            if isinstance(self.decoder, BaseTransformerDecoder):
                (decoder_out, hidden), _ = self.decoder(*reads, return_hs=True)
            else:
                decoder_out, _ = self.decoder(*reads)
            decoder_out = decoder_out.float()
            att_sum = self.criterion_att(decoder_out, targets) * batch
            labels = int(text_lengths.sum()) + batch
            correct = (decoder_out.detach().argmax(-1) == targets).sum()
        return ASROutput(
            encoder_out, encoder_out_lens, ctc_sum, att_sum, decoder_out, targets, labels, correct, hidden
        )

    def joint_loss(self, output: ASROutput, utterances: float, labels: float | None = None) -> torch.Tensor:
        """Weighted sum of both branches over the totals of the optimiser step.

        Args:
            output: of one micro-batch.
            utterances: number of utterances of the whole step.
            labels: number of labels of the whole step for `loss_norm: token`; None for `utterance`.

        Returns:
            scalar: ctc_weight * CTC + (1 - ctc_weight) * attention.
        """
        denominator = labels if labels is not None else utterances
        loss = 0.0
        if output.ctc_sum is not None:
            loss = loss + self.ctc_weight * output.ctc_sum / denominator
        if output.att_sum is not None:
            loss = loss + (1 - self.ctc_weight) * output.att_sum / denominator
        return loss


def adopt(model: ESPnetASRModel, padding: str = "exact", specaug_conf: dict | None = None) -> ASRModel:
    """Turn a built ESPnetASRModel into an ASRModel, in place: same parameters, same names.

    Args:
        model: an attention, CTC or joint model of ESPnet's ASRTask.
        padding: `exact`: an utterance's outputs do not depend on its batch; `espnet`: upstream's computation.
        specaug_conf: options of SpecAugment (ESPnet's names), or None for no masks.

    Raises:
        UserError: the model uses a part that the exact computation does not know.
    """
    if padding not in ("exact", "espnet"):
        raise UserError(f"--padding {padding}: expected exact or espnet")
    unsupported = [
        name
        for name, used in (
            ("transducer decoder", getattr(model, "use_transducer_decoder", False)),
            ("preencoder", model.preencoder is not None),
            ("postencoder", model.postencoder is not None),
            ("intermediate CTC", model.interctc_weight != 0.0),
            ("language token", model.lang_token_id is not None),
        )
        if used
    ]
    if unsupported:
        raise UserError(
            f"the model has a {' and a '.join(unsupported)}, which the joint CTC/attention task lacks"
        )
    if padding == "exact":
        make_exact(model.encoder)
        fuse(model)
        if model.frontend is not None:
            if type(model.frontend) is not DefaultFrontend:
                raise UserError(
                    f"frontend {type(model.frontend).__name__}: no padding-exact variant; use default, "
                    "or --padding espnet"
                )
            model.frontend.__class__ = ExactFrontend
    model.__class__ = ASRModel
    model.padding_option = padding
    model.specaug = None  # ESPnet's own draws from the batch; ours is keyed and holds no parameters
    model.keyed_specaug = KeyedSpecAug(**specaug_conf) if specaug_conf is not None else None
    return model
