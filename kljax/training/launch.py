"""A run that this process takes steps of: what it has beside its state, and how a state is saved, or looked at as restored."""

from dataclasses import dataclass
from pathlib import Path

from kljax.config import Config
from kljax.data.batches import PromptRows
from kljax.devices.state import TrainState, all_finite
from kljax.errors import NotFinite
from kljax.models.layers import stack
from kljax.runs import going_on
from kljax.runs.adapter import Frozen, frozen_reference
from kljax.runs.checkpoints import Checkpoints
from kljax.runs.restore import RestoredRun
from kljax.training.diagnosis import AFTER_UPDATE
from kljax.training.trainer import Trainer
from kljax.types import Params


@dataclass(frozen=True)
class Launch:
    """Parts of a run that this process takes steps of, beside its state, and where it saves that."""

    trainer: Trainer
    frozen: Frozen
    checkpoints: Checkpoints
    frozen_hash: str
    path: Path
    base: Params
    held_out: PromptRows

    @property
    def config(self) -> Config:
        """Its config."""
        return self.trainer.setup.config

    def save(self, step: int, state: TrainState, beta: float | None) -> None:
        """A state that is whole, with the beta that the step before it used; a UserError where a number in it is not finite."""
        if not all_finite(state):
            raise NotFinite(f"step {step - 1}, counted from 0: {AFTER_UPDATE}")
        asked = sorted(self.trainer.reward.asked)
        self.checkpoints.save(step, state, {"reference": self.frozen_hash, "beta": beta, going_on.ASKED: asked})

    def restored(self, step: int, state: TrainState) -> RestoredRun:
        """The trees that `restore` makes of a checkpoint of this state."""
        adapted = self.trainer.parts.adaptation
        base = stack(self.base if self.frozen.base is None else self.frozen.base)
        moves = state.reference is not None
        reference = adapted.merged(state.reference, base) if moves else stack(frozen_reference(self.frozen))
        policy = adapted.merged(state.params, base)
        return RestoredRun(self.path, step, self.trainer.setup, policy, reference, 0.0, base, None)
