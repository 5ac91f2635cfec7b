"""Which kind of step a training is at: warm start, exploration, joint steps, final fine-tuning."""

from dataclasses import dataclass

from espnet_ext.errors import UserError
from espnet_ext.train.method import Position

WARM, EXPLORE, JOINT, FINAL = "warm", "explore", "joint", "final"


@dataclass(frozen=True)
class Phases:
    """The epochs of a training: first `warm`, then `joint`, then `final` ones.

    | phase | loop steps of an epoch | what a step reads |
    |---|---|---|
    | warm | (explore + 1) × steps of a labelled pass | unlabelled |
    | joint | (explore + 1) × steps of a labelled pass | unlabelled, `explore` times; then both |
    | final | steps of a labelled pass | labelled |

    So a joint epoch is one pass over the labelled data, a warm epoch reads as many unlabelled batches as a
    joint one, and a training of warm and final epochs alone (pre-training, then fine-tuning) has exactly the
    batches of each kind of one with as many joint epochs.

    Args:
        warm, joint, final: numbers of epochs.
        explore: N_low, exploration steps before each joint step.

    Raises:
        UserError: a negative number, or nothing to train.
    """

    warm: int
    joint: int
    final: int
    explore: int

    def __post_init__(self):
        for name, value in (
            ("warm_epochs", self.warm),
            ("final_epochs", self.final),
            ("explore_steps", self.explore),
        ):
            if value < 0:
                raise UserError(f"bilevel_conf {name}: {value}: expected at least 0")
        if self.joint < 0:
            raise UserError(
                f"bilevel_conf: warm_epochs {self.warm} and final_epochs {self.final} are more than "
                f"max_epoch, {self.warm + self.joint + self.final}; fewer are "
                "`--bilevel_conf final_epochs=...` (and warm_epochs), or raise max_epoch"
            )

    def phase(self, epoch: int) -> str:
        """`warm`, `joint` or `final`, for an epoch counted from 1."""
        if epoch <= self.warm:
            return WARM
        return JOINT if epoch <= self.warm + self.joint else FINAL

    def kind(self, position: Position) -> str:
        """Kind of the step at a position: `warm`, `explore`, `joint` or `final`."""
        phase = self.phase(position.epoch)
        if phase == JOINT and position.step_in_epoch % (self.explore + 1) < self.explore:
            return EXPLORE
        return phase

    def labelled_pass(self, epoch: int) -> int:
        """Pass over the labelled data that an epoch makes, from 1; a warm epoch is as long as it would be."""
        return epoch if epoch <= self.warm else epoch - self.warm

    def steps(self, epoch: int, labelled_steps: int) -> int:
        """Loop steps of an epoch, if its labelled pass has ``labelled_steps``."""
        return labelled_steps if self.phase(epoch) == FINAL else (self.explore + 1) * labelled_steps

    def kinds(self) -> list[str]:
        """Kinds of steps that occur."""
        exploring = [EXPLORE] if self.joint and self.explore else []
        return [WARM] * bool(self.warm) + exploring + [JOINT] * bool(self.joint) + [FINAL] * bool(self.final)
