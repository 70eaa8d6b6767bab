"""The interface of a tracker, and what it is told of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Metrics = Mapping[str, float | Sequence[float | None]]
"""Figures of a step by name; lists are by position."""
End = Literal["finished", "stopped", "failed"]
"""How a launch ended: `stopped` by Ctrl-C or SIGTERM, to be gone on with."""


@dataclass(frozen=True)
class Tracked:
    """A run: its directory, what it is grouped under, its settings, and the step from which this launch logs."""

    path: Path
    project: str
    settings: Mapping[str, Any]
    first_step: int

    @property
    def name(self) -> str:
        """By which it is shown."""
        return self.path.name


@runtime_checkable
class Tracker(Protocol):
    """A place where the figures of one launch go."""

    def write(self, step: int, metrics: Metrics) -> None:
        """The figures of a step; steps come in order."""
        ...

    def summarise(self, figures: Mapping[str, float]) -> None:
        """The held-out figures after the last step."""
        ...

    def close(self, end: End) -> None:
        """Nothing comes any more."""
        ...
