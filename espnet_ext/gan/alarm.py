"""Noticing that recogniser and critic do not train well, from means over windows of steps."""

from dataclasses import dataclass

from espnet_ext.gan.options import AlarmOptions


@dataclass(frozen=True)
class Window:
    """Means over the steps of a window and all processes."""

    loss: float  # the recogniser's joint loss
    gap: float  # critic's score of transcripts above that of soft outputs
    distance: float  # between a transcript and its soft output: the largest gap that a slope of 1 allows
    penalty: float  # (slope - 1)²


class Alarm:
    """Counts windows in a row that look bad.

    Args:
        options: limits and patience.
    """

    def __init__(self, options: AlarmOptions):
        self.options = options
        self.best_loss = float("inf")
        self.counts = {"loss": 0, "saturation": 0, "penalty": 0}

    def check(self, window: Window) -> list[str]:
        """Judge the next window.

        Returns:
            a message for each trouble that has lasted `patience` windows; it is given once, and again after
            as many windows more.
        """
        o = self.options
        self.best_loss = min(self.best_loss, window.loss)
        used = window.gap / window.distance if window.distance > 0 else 0.0
        bad = {
            "loss": window.loss > self.best_loss * (1 + o.loss_rise),
            "saturation": used > o.saturation,
            "penalty": window.penalty > o.penalty,
        }
        messages = {
            "loss": f"the recogniser's loss is {window.loss:.4g}, its best window had "
            f"{self.best_loss:.4g}: lower lambda_d or the learning rate, or raise lambda_d_warmup",
            "saturation": f"the critic is saturated: it scores transcripts {window.gap:.3g} above soft "
            f"outputs, {used:.0%} of what their distance allows: raise smoothing, so that their peaks do not "
            "give them away",
            "penalty": f"the gradient penalty is {window.penalty:.3g}: the critic's slope is far from 1, and "
            "so is the size of what it sends to the recogniser; raise lambda_gp or lower optim2_conf's lr",
        }
        given = []
        for name in self.counts:
            self.counts[name] = self.counts[name] + 1 if bad[name] else 0
            if self.counts[name] == o.patience:
                given.append(messages[name])
                self.counts[name] = 0
        return given

    def state(self) -> dict:
        return {"best_loss": self.best_loss, "counts": dict(self.counts)}

    def load_state(self, state: dict) -> None:
        self.best_loss, self.counts = state["best_loss"], dict(state["counts"])
