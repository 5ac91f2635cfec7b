"""Self-supervised training alone: the starting model of a recogniser."""

from collections.abc import Iterator

import torch

from espnet_ext.ssl.objective import SSLObjective
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.world import World

#: Purpose under which dropout of an unlabelled batch is drawn, here and wherever else the objectives are
#: trained.
UNLABELLED_KEY = "unsupervised"


def trained_parameters(model: torch.nn.Module, objective: SSLObjective) -> Iterator[torch.nn.Parameter]:
    """The recogniser's encoder, then the objective's own layers; nothing else of the recogniser."""
    yield from model.encoder.parameters()
    yield from objective.parameters()


class SSLMethod(Method):
    """One self-supervised objective on unlabelled speech.

    Args:
        model: the recogniser; its decoder and CTC stay as they are, and are exported with it.
        objective: see there.
        updater: over `trained_parameters`.
        world: the processes.
    """

    main_stream = "unlabelled"

    def __init__(
        self,
        model: torch.nn.Module,
        objective: SSLObjective,
        updater: Updater,
        world: World | None = None,
    ):
        super().__init__({"model": model, "unsupervised": objective}, {"lower": updater})
        self.model, self.objective, self.world = model, objective, world or World()
        self._turns = (Turn("warm", (Part("unlabelled", self.part, UNLABELLED_KEY),), ("lower",)),)

    def turns(self, position: Position):
        return self._turns

    def part(self, micro: MicroBatch) -> Loss:
        """The objective on unlabelled speech."""
        return self.objective.loss(self.model, micro)

    def validate(self, micro: MicroBatch) -> Figures:
        figures = self.objective.validate(self.model, micro)
        # Under the names that criteria go by as well.
        return figures | {name: figures[f"{name}_unsupervised"] for name in ("loss", "acc")}

    def after_step(self, position: Position) -> Figures:
        self.objective.check_health(self.world, position.step)
        return {}

    def state(self) -> dict:
        return {"alarms": list(self.objective.alarmed)}

    def load_state(self, state: dict) -> None:
        self.objective.alarmed = list(state.get("alarms", []))  # checkpoints of before have none

    def summary(self) -> dict:
        return {"self_supervised": self.objective.name, "alarms": self.objective.alarmed}
