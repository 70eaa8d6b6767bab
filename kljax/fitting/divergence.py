"""A fit whose numbers are no longer finite, or that learns nothing: where that began, what is kept, what can be done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from kljax.devices.state import not_finite
from kljax.errors import UserError
from kljax.progress import say
from kljax.runs.checkpoints import Checkpoints
from kljax.runs.setup import Setup
from kljax.types import struct


@struct
class UpdateCheck:
    """By which a sound update is known: its loss, the norm of its gradient, and whether all that it made is finite."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    made: Bool[Array, ""]  # parameters and moments of the optimiser


@dataclass(frozen=True)
class FitChecks:
    """Refuses what a fit must not go on with, save or hand on. Updates are counted from 1."""

    setup: Setup
    path: Path
    checkpoints: Checkpoints

    def update(self, number: int, check: UpdateCheck) -> None:
        """UserError where this update is not sound. Each is looked at, so that all before it were."""
        check = jax.device_get(check)
        if not np.isfinite(check.loss):
            found = f"the training loss is {check.loss}, of parameters that are finite"
            self._refuse(number, found, of_the_model(self.setup) if number == 1 else None)
        if not np.isfinite(check.gradient_norm):
            self._refuse(number, f"the training loss is {check.loss:.4g}, but its gradient has the norm {check.gradient_norm}")
        if not check.made:
            self._refuse(number, "loss and gradient are finite, but the parameters or the optimiser's moments after it are not")

    def outputs(self, done: int, outputs: np.ndarray, part: str) -> None:
        """UserError where the model after `done` updates, whose training loss is finite, gives no number for a row."""
        if (found := no_number(outputs, part)) is not None:
            self._refuse(done, f"the training loss is finite, but the model gives {found}")

    def state(self, done: int, state: Any) -> None:
        """UserError where a state that is to be saved holds a number that is not finite."""
        if (name := not_finite(state)) is not None:
            self._refuse(done, f"{name} holds a number that is not finite")

    def restored(self, done: int, state: Any) -> None:
        """UserError where a checkpoint that is there already holds such a number."""
        if (name := not_finite(state)) is not None:
            raise UserError(
                f"pretrain: the checkpoint of step {done} in {self.path} holds a number that is not finite ({name}): an older "
                "version of kljax saved it after the fit had diverged, or the file was changed. Remove that directory, and fit "
                f"anew with {self._lower()}."
            )

    def learnt(self, done: int, looks_since_best: int) -> None:
        """UserError where no look found random parameters better than they were; a model that was imported stays as it was."""
        config = self.setup.config.pretrain
        looks = done // config.eval_every + (done == config.steps and done % config.eval_every > 0)
        if looks_since_best < looks:
            return
        found = f"in none of {looks} looks was the held-out {config.watch} better than before the first update"
        if self.setup.pretrained is not None:
            return say(f"pretrain: {found}, and the model stays as it was. {self._lower().capitalize()} may better it.")
        raise UserError(
            f"pretrain: nothing was learnt: {found}, when the parameters were random; expected {self._lower()}, or more "
            f"pretrain.steps (now {config.steps})."
        )

    def _refuse(self, number: int, found: str, way_out: str | None = None) -> None:
        self.checkpoints.wait()
        kept = "Nothing of it was saved; the same command would begin again and come to the same update."
        if saved := self.checkpoints.steps():
            kept = (
                f"Nothing of it was saved: the last checkpoint in {self.path} is that of step {saved[-1]}, from which the same "
                "command would come to the same update."
            )
        lower = f"Expected {self._lower()}: that is another fit, which begins anew in a directory of its own."
        steps = self.setup.config.pretrain.steps
        raise UserError(f"pretrain: the fit diverged at update {number} of {steps}: {found}. {kept} {way_out or lower}")

    def _lower(self) -> str:
        return f"a lower pretrain.optimizer.learning_rate (now {self.setup.config.pretrain.optimizer.learning_rate:g})"


def no_number(outputs: np.ndarray, part: str) -> str | None:
    """Which value the first row has that is no finite number, in words; None where all are."""
    bad = np.argwhere(~np.isfinite(outputs))
    return f"{outputs[tuple(bad[0])]} for {part} row {bad[0][0]}" if len(bad) else None


def check_as_it_is(setup: Setup, outputs: np.ndarray, part: str) -> None:
    """UserError where a model that was not changed, or is finished, gives no number for a row."""
    if (found := no_number(outputs, part)) is not None:
        raise UserError(f"pretrain: the model gives {found}, though its parameters are finite. {of_the_model(setup)}")


def of_the_model(setup: Setup) -> str:
    """Why finite parameters give no number, and what to do about it."""
    dtype = setup.model.dtype
    whose = "the model's sizes" if setup.pretrained is None else f"the weights in '{setup.pretrained.path}'"
    expected = f"look at {whose}" if dtype == "float32" else f"expected model.dtype=float32, or look at {whose}"
    return f"No update is the cause of that, but what is computed in {dtype}, which cannot hold it; {expected}."


def check_result(setup: Setup, params: Any) -> None:
    """UserError where parameters that are to be kept are not finite, such as in the units of ratings that are too large."""
    if (name := not_finite(params)) is not None:
        raise UserError(
            f"pretrain: in the units of the data the fitted model holds a number that float32 cannot, in {name}; expected "
            "smaller ratings, such as the same ones divided by a number."
        )
