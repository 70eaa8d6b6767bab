"""Looks at held-out prompts every so many steps of a run, and the best step by them."""

from dataclasses import replace
from functools import partial

from kljax.devices.state import TrainState
from kljax.errors import UserError
from kljax.runs import directory
from kljax.runs.best import HELD_OUT, BestSoFar
from kljax.runs.held_out import HeldOut
from kljax.training.launch import Launch
from kljax.training.recorder import Recorder


class Looks:
    """The figures that a run sees of its held-out prompts every so many steps, and which step is the best."""

    def __init__(self, run: Launch, recorder: Recorder, first: int):
        by = run.config.evaluation.best
        self._run, self._recorder = run, recorder
        self._held_out = HeldOut(run.held_out, replace(run.trainer.reward, params=run.frozen.reward))
        self._best = None
        if by is not None:
            log = partial(directory.read_lines, run.path / "metrics.jsonl")
            self._best = BestSoFar(run.path, by, first, run.checkpoints.steps(), log)
            run.checkpoints.best = self._best.step

    def at(self, step: int, state: TrainState) -> dict[str, float]:
        """Figures of the policy after `step` steps, which is saved where it is the best so far."""
        with self._recorder.between_steps("evaluation"):
            try:
                figures = self._held_out.figures(self._run.restored(step, state))
            except UserError as failed:
                self._run.save(step, state, self._recorder.beta)
                raise UserError(
                    f"{failed} That was in the evaluation after step {step}, which is saved. When it is mended the same "
                    "command goes on from there."
                ) from failed
        if self._best is not None and self._best.add(step, figures):
            with self._recorder.between_steps("save"):
                self._run.save(step, state, self._recorder.beta)
            self._run.checkpoints.best = step
        return {f"{HELD_OUT}{name}": value for name, value in figures.items()}

    @property
    def sentence(self) -> str | None:
        """Which step is the best."""
        return None if self._best is None else self._best.sentence

    def forget_from(self, step: int) -> None:
        """Nothing is known any more of the policy after `step` steps and later."""
        if self._best is not None:
            self._best.forget_from(step, self._run.checkpoints.steps())
