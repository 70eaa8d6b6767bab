"""A run that this process takes steps of: what it is going to do, what it has beside its state, how a state is saved."""

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
from kljax.runs.going_on import Length
from kljax.runs.models import RESULT
from kljax.runs.restore import RestoredRun
from kljax.runs.setup import Setup, base_path, is_as_it_is
from kljax.training.diagnosis import AFTER_UPDATE
from kljax.training.trainer import Trainer
from kljax.types import Params


def plan(setup: Setup, length: Length | None, path: Path) -> str | None:
    """What a launch is going to do, in one line; None where it goes on, which is said when it is known from which step."""
    steps = setup.config.steps
    if length is not None and length.taken:
        return going_on.finished(path, steps) if length.taken == steps else None
    if is_as_it_is(setup):
        return f"{steps} steps from {setup.pretrained.path} into {path}."  # pyright: ignore  # as it is, it has files
    base, fit = base_path(setup), setup.config.pretrain.steps
    if (base / RESULT).exists():
        return f"{steps} steps from the base model in {base} into {path}."
    return f"Fitting the base model (at most {fit} steps) into {base}, then {steps} steps into {path}."


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
