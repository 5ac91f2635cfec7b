"""What every self-supervised objective offers to those who train with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.encode import encode
from espnet_ext.ssl.grid import grid_of
from espnet_ext.ssl.health import Watch
from espnet_ext.train.keys import key
from espnet_ext.train.method import Figures, Loss, MicroBatch, Totals
from espnet_ext.train.world import World

#: What a caller puts between the encoder and an objective's own layers, for instance a scaling of the
#: gradient.
Between = Callable[[torch.Tensor], torch.Tensor]


def nothing_between(encoded: torch.Tensor) -> torch.Tensor:
    """The encoder's output as it is."""
    return encoded


@dataclass
class Predictions:
    """A micro-batch's losses, before any division."""

    loss_sum: torch.Tensor  # scalar: sum over predictions of -log P(target)
    count: int  # number of predictions
    correct: torch.Tensor  # scalar, detached: how many of them rank the target first
    figures: Figures = field(default_factory=dict)


class SSLObjective(torch.nn.Module):
    """A self-supervised loss with layers of its own (η) on top of a recogniser's encoder (θ).

    The recogniser is an argument and no sub-module: its parameters are saved, counted and exported with the
    recogniser alone.

    Args:
        model: a recogniser with `_extract_feats`, `normalize` and `encoder`.
        size: F, features a frame.

    Raises:
        UserError: an encoder that the loss cannot mask.
    """

    #: Name for messages. Logs call the mean loss of a prediction `loss_unsupervised`, and the part predicted
    #: right `acc_unsupervised`, whichever objective it is.
    name = "ssl"
    #: How often a training looks for collapsed features and codes, and what it does then: `warn` or `stop`.
    alarm_steps = 200
    alarm = "warn"

    def __init__(self, model: torch.nn.Module, size: int):
        super().__init__()
        self.grid = grid_of(model.encoder)
        self.shortest = self.grid.window  # feature frames of which something can be predicted
        self.watch = Watch()
        self.alarmed: list[str] = []  # what `check_health` found so far; in checkpoints and in the summary
        self._check_frames(model, size)

    def _check_frames(self, model: torch.nn.Module, size: int) -> None:
        """Encode some silence: later layers must keep the number of frames of the input layer."""
        first = next(model.encoder.parameters())
        frames = self.grid.features(6)
        silence = torch.zeros(1, frames, size, device=first.device, dtype=first.dtype)
        mode = model.encoder.training
        model.encoder.eval()
        with torch.no_grad():
            encoded = encode(model, silence, torch.tensor([frames], device=first.device))
        model.encoder.train(mode)
        if encoded.size(1) != 6:
            raise UserError(
                f"encoder {type(model.encoder).__name__}: makes {encoded.size(1)} frames of what its input "
                "layer makes 6 of: a self-supervised loss cannot mask it; use an encoder that subsamples in "
                "its input layer alone"
            )

    def predict(
        self,
        model: torch.nn.Module,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        keys: Sequence[int],
        between: Between = nothing_between,
    ) -> Predictions:
        """Losses of a batch.

        Args:
            model: the recogniser.
            speech: (B, N) samples, or (B, T, F) features where the model has no front end.
            lengths: (B,) true lengths.
            keys: B random keys; an utterance's masks depend on its key alone.
            between: applied to the encoder's output wherever a gradient goes back into the encoder.
        """
        raise NotImplementedError

    def expected(self, totals: Totals) -> float:
        """Number of predictions of a whole step to be expected: the loss's denominator.

        The true number depends on the masks of all micro-batches of all processes. The expected one is known
        from lengths alone, before the step is computed; it gives every prediction of the training the same
        weight; and the masks are drawn so that the loss is the mean over predictions, on average over the
        masks.
        """
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, micro: MicroBatch, between: Between = nothing_between) -> Loss:
        """The micro-batch's share of the step's loss, for a part of a turn."""
        predictions = self.predict(model, *self._speech(micro), self._keys(micro), between)
        return Loss(predictions.loss_sum / self.expected(micro.totals), self._figures(predictions))

    def validate(self, model: torch.nn.Module, micro: MicroBatch) -> Figures:
        """Figures of a validation batch, with masks that are the same in every epoch."""
        return self._figures(self.predict(model, *self._speech(micro), self._keys(micro)))

    def alarms(self) -> list[str]:
        """What looks collapsed in what the watch gathered since the last call, in words."""
        raise NotImplementedError

    def check_health(self, world: World, step: int) -> None:
        """After a step of training: look every `alarm_steps` steps. All processes must call it.

        Raises:
            UserError: something has collapsed and `alarm` is `stop`.
        """
        self.watch.gather(world)
        if (step + 1) % self.alarm_steps:
            return
        for alarm in self.alarms():
            message = f"step {step + 1}: {self.name} looks collapsed: {alarm}"
            self.alarmed.append(message)
            if self.alarm == "stop":
                raise UserError(message)
            if world.first:
                print(f"warning: {message}", flush=True)

    @staticmethod
    def nothing(head: torch.nn.Linear) -> Predictions:
        """Where all utterances are too short to predict anything: a loss of zero with a gradient of zero."""
        zero = (head.weight.sum() + head.bias.sum()) * 0.0
        return Predictions(zero, 0, zero.detach())

    @staticmethod
    def _speech(micro: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return micro.batch.tensors["speech"], micro.batch.tensors["speech_lengths"]

    @staticmethod
    def _keys(micro: MicroBatch) -> list[int]:
        """Keys of the loss's own: apart from SpecAugment's, and by utterance alone in validation."""
        bases = micro.keys or [key("validation", utterance) for utterance in micro.batch.utterances]
        return [key(base, "self-supervised") for base in bases]

    def _figures(self, predictions: Predictions) -> Figures:
        count = predictions.count
        return {
            "loss_unsupervised": (predictions.loss_sum.detach(), count),
            "acc_unsupervised": (predictions.correct, count),
            **predictions.figures,
        }
