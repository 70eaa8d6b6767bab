"""Weights & Biases: a run there for each run here. Its own settings (WANDB_MODE, WANDB_PROJECT, WANDB_DIR, …) hold as usual."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kljax.errors import UserError
from kljax.progress import say
from kljax.runs.trackers.tracker import End, Metrics, Tracked

EXIT_CODES: dict[End, int] = {"finished": 0, "failed": 1, "stopped": 130}
MOST_BARS = 512  # of a histogram


def check() -> None:
    """Refuse a launch that would ask for a password, or end in being refused there."""
    import wandb  # pyright: ignore  # an extra

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "track: got wandb, but there is no API key of it here; expected `wandb login` before, or WANDB_MODE=offline, which "
            "writes files that `wandb sync` sends later."
        )


class WandbRun:
    """A run of the project, which a later launch of the same run here goes on with."""

    def __init__(self, run: Tracked, id: str):
        import wandb  # pyright: ignore  # an extra

        given = {"project": run.project, "name": run.name, "dir": str(run.path)}
        own = {key: value for key, value in given.items() if f"WANDB_{key.upper()}" not in os.environ}
        settings = wandb.Settings(silent=True, console="off", reinit="create_new")
        self._run = wandb.init(**own, id=id, resume="allow", config=dict(run.settings), settings=settings)  # pyright: ignore
        if "WANDB_RUN_ID" in os.environ:
            say(f"track: WANDB_RUN_ID is not used: each run has an id of its own, this one {id}.")
        self.through = None if self._run.offline else self._run.step - 1
        say(f"track: wandb, {self._where()}")

    def _where(self) -> str:
        if self._run.disabled:
            return f"disabled by {'WANDB_MODE' if 'WANDB_MODE' in os.environ else 'its settings'}: it gets nothing"
        return f"offline, in {self._run.settings.sync_dir}" if self._run.offline else str(self._run.url)

    def write(self, step: int, metrics: Metrics) -> None:
        """A line; lists as histograms with a bar a position. It refuses steps that it has."""
        if step >= self._run.step:
            self._run.log({name: _value(value) for name, value in metrics.items()}, step=step, commit=True)

    def summarise(self, figures: Mapping[str, float]) -> None:
        """In the run's summary."""
        self._run.summary.update({f"evaluation/{name}": value for name, value in figures.items()})

    def close(self, end: End) -> None:
        """Wait until it is sent, or on disk."""
        self._run.finish(exit_code=EXIT_CODES[end])
        if self._run.offline and not self._run.disabled:
            folder = Path(self._run.settings.sync_dir)
            launches = sorted(str(one) for one in folder.parent.glob(f"offline-run-*-{self._run.id}"))
            say(f"track: to send what was written offline: wandb sync {shlex.join(launches)}")


def _value(value: float | Sequence[float | None]) -> Any:
    import wandb  # pyright: ignore  # an extra

    if not isinstance(value, Sequence):
        return value
    heights = np.array([0.0 if height is None else height for height in value[:MOST_BARS]])
    return wandb.Histogram(np_histogram=(np.nan_to_num(heights), np.arange(len(heights) + 1)))
