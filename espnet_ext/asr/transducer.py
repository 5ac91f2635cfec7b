"""ESPnet's stand-alone transducer, padding-exact, with its sums and inner outputs in reach of the methods.

ESPnet's own loss packages do not install with pip; torchaudio's loss takes their place, and the joint lattice
is never held as a whole (`espnet_ext.asr.transducer_loss`).

Legend: B batch, N samples, T encoder frames, U labels (without <eos>), V tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.asr_transducer.utils import get_transducer_task_io

from espnet_ext.asr.frontend import ExactFrontend
from espnet_ext.asr.specaug import KeyedSpecAug
from espnet_ext.asr.transducer_encoder import make_exact
from espnet_ext.asr.transducer_loss import JointNodes, Objective, joint_loss
from espnet_ext.errors import UserError
from espnet_ext.train.precision import full_precision


@dataclass
class TransducerOutput:
    """What a forward pass knows before the joint network. Sums run over the batch and carry gradient."""

    encoder_out: torch.Tensor  # (B, T, D)
    encoder_out_lens: torch.Tensor  # (B,)
    predictor_out: torch.Tensor  # (B, U + 1, D); [:, u] has read u labels and predicts label u + 1
    targets: torch.Tensor  # (B, U) labels, padded with blank (0)
    target_lens: torch.Tensor  # (B,)
    ctc_sum: torch.Tensor | None  # scalar: sum over utterances of the auxiliary CTC's -log P(text)
    lm_sum: torch.Tensor | None  # scalar: sum over labels of the auxiliary LM's smoothed divergence


class TransducerModel(ESPnetASRTransducerModel):
    """ESPnetASRTransducerModel with the same parameters that returns sums and inner outputs.

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
        """
        with full_precision(speech.device):
            features, lengths = self._extract_feats(speech, lengths)
            if self.normalize is not None:
                features, lengths = self.normalize(features, lengths)
        if keys is not None and self.keyed_specaug is not None:
            # After normalisation, where zero is the mean (see `espnet_ext.asr.model`).
            features = self.keyed_specaug(features, lengths, keys)
        return self.encoder(features, lengths)

    def outputs(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        keys: Sequence[int] | None = None,
    ) -> TransducerOutput:
        """Encoder, prediction network under teacher forcing, and the auxiliary losses.

        Args:
            speech, speech_lengths: as `encode_keyed`.
            text: (B, U) labels, padded with -1.
            text_lengths: (B,).
            keys: as `encode_keyed`.
        """
        text = text.masked_fill(text == -1, self.ignore_id)[:, : int(text_lengths.max())]
        encoder_out, lengths = self.encode_keyed(speech, speech_lengths, keys)
        inputs, targets, frames, labels = get_transducer_task_io(text, lengths, ignore_id=self.ignore_id)
        self.decoder.set_device(encoder_out.device)
        predictor_out = self.decoder(inputs)
        ctc_sum = lm_sum = None
        if self.use_auxiliary_ctc:
            ctc_sum = self._ctc_sum(encoder_out, targets, frames, labels)
        if self.use_auxiliary_lm_loss:
            # ESPnet's is a sum divided by the number of utterances.
            with full_precision(encoder_out.device):
                lm_sum = self._calc_lm_loss(predictor_out.float(), targets) * len(text)
        return TransducerOutput(encoder_out, frames, predictor_out, targets, labels, ctc_sum, lm_sum)

    def lattice_loss(
        self,
        output: TransducerOutput,
        objective: Objective,
        parameters: Sequence[torch.nn.Parameter] = (),
    ) -> torch.Tensor:
        """Scalar: the sum of an objective over the joint lattices of a micro-batch.

        Args:
            output: of that micro-batch.
            objective: loss of some utterances' nodes, weighted and divided by its denominator.
            parameters: of heads that the objective reads.
        """
        return joint_loss(
            objective,
            self.joint_network,
            output.encoder_out,
            output.encoder_out_lens,
            output.predictor_out,
            output.targets,
            output.target_lens,
            parameters,
        )

    def auxiliary_loss(self, output: TransducerOutput, denominator: float) -> torch.Tensor | float:
        """Weighted sum of the auxiliary losses over the totals of the optimiser step; 0.0 without any."""
        loss = 0.0
        if output.ctc_sum is not None:
            loss = loss + self.auxiliary_ctc_weight * output.ctc_sum / denominator
        if output.lm_sum is not None:
            loss = loss + self.auxiliary_lm_loss_weight * output.lm_sum / denominator
        return loss

    def losses(self, output: TransducerOutput) -> torch.Tensor:
        """(B,) -log P(text | speech) of each utterance, without gradient."""
        found = []

        def collect(nodes: JointNodes) -> torch.Tensor:
            found.append(nodes.losses())
            return found[-1].sum()

        with torch.no_grad():
            self.lattice_loss(output, collect)
        return torch.cat(found)

    def _ctc_sum(self, encoder_out, targets, frames, labels) -> torch.Tensor:
        # As ESPnet's, but for the dropout, which ESPnet leaves on in evaluation.
        dropped = torch.nn.functional.dropout(encoder_out, self.ctc_dropout_rate, self.training)
        with full_precision(encoder_out.device):
            scores = self.ctc_lin(dropped.float()).log_softmax(-1).transpose(0, 1)  # (T, B, V)
            return torch.nn.functional.ctc_loss(
                scores, targets.long(), frames.long(), labels.long(), reduction="sum", zero_infinity=True
            )


def torchaudio_loss(
    scores: torch.Tensor, targets: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean loss of a batch's whole lattice (B, T, U + 1, V), in the place of the loss that ESPnet imports."""
    return torchaudio.functional.rnnt_loss(scores, targets, frames, labels, blank=0, reduction="mean")


def adopt(
    model: ESPnetASRTransducerModel, padding: str = "exact", specaug_conf: dict | None = None
) -> TransducerModel:
    """Turn a built ESPnetASRTransducerModel into a TransducerModel, in place: same parameters, same names.

    Args:
        model: of ESPnet's ASRTransducerTask.
        padding: `exact`: an utterance's outputs do not depend on its batch; `espnet`: upstream's computation.
        specaug_conf: options of SpecAugment (ESPnet's names), or None for no masks.

    Raises:
        UserError: the model uses a part that this computation does not know.
    """
    if padding not in ("exact", "espnet"):
        raise UserError(f"--padding {padding}: expected exact or espnet")
    if model.use_k2_pruned_loss:
        raise UserError("model_conf.use_k2_pruned_loss: k2 is not used here; set it to false")
    if model.fastemit_lambda != 0.0:
        raise UserError("model_conf.fastemit_lambda: torchaudio's loss has no FastEmit; set it to 0")
    if padding == "exact":
        make_exact(model.encoder)
        if not isinstance(model.decoder, (RNNDecoder, StatelessDecoder)):
            raise UserError(
                f"decoder {type(model.decoder).__name__}: not known to be padding-exact; use rnn or "
                "stateless, or --padding espnet"
            )
        if model.frontend is not None:
            if type(model.frontend) is not DefaultFrontend:
                raise UserError(
                    f"frontend {type(model.frontend).__name__}: no padding-exact variant; use default, "
                    "or --padding espnet"
                )
            model.frontend.__class__ = ExactFrontend
    model.criterion_transducer = torchaudio_loss  # for ESPnet's own `forward`
    model.__class__ = TransducerModel
    model.padding_option = padding
    model.specaug = None  # ESPnet's own draws from the batch; ours is keyed and holds no parameters
    model.keyed_specaug = KeyedSpecAug(**specaug_conf) if specaug_conf is not None else None
    return model
