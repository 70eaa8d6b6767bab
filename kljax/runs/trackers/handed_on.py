"""Figures handed on to a service by a thread: what fails there is one sentence, and neither ends nor slows the run.

<run>/trackers/<name>.json  the id under which the service knows the run, and the last step that it has

A launch hands on first what metrics.jsonl has and the service has not: of a run that was begun without it, or what was lost
when a process was killed. What is computed again after that was handed on before, and is left out.
"""

import math
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kljax.json_text import json_text
from kljax.progress import say, working
from kljax.reading import read_bytes, strict_json
from kljax.runs.digests import write_atomically
from kljax.runs.trackers.tracker import End, Metrics, Tracked, Tracker

FOLDER = "trackers"
WAITING = 10_000  # lines that may wait: a service that takes none is given up, before they fill the memory
PATIENCE = 60.0  # s that a run waits at its end

Open = Callable[[Tracked, str], Tracker]
"""(run, its id) → a tracker; `through`, where it has that, is the last step that the service has. Used in the thread alone."""


class HandedOn:
    """A tracker in a thread of its own."""

    def __init__(self, name: str, opener: Open, run: Tracked):
        self._name, self._open, self._run = name, opener, run
        self._file = run.path / FOLDER / f"{name}.json"
        self._id, self._through = _known(self._file)
        self._queue: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING)
        self._lost = threading.Event()  # nothing is handed on any more
        self._thread = threading.Thread(target=self._work, name=f"track {name}", daemon=True)
        self._thread.start()

    def write(self, step: int, metrics: Metrics) -> None:
        """Leave it to the thread."""
        self._put(lambda tracker: self._hand_on(tracker, step, metrics))

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Leave it to the thread."""
        self._put(lambda tracker: tracker.summarise(figures))

    def close(self, end: End) -> None:
        """Wait until all is handed on, within reason."""
        self._put(lambda tracker: tracker.close(end))
        self._put(None)
        with working(f"handing on to {self._name}"):
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._give_up(f"has not taken all in {PATIENCE:.0f} s")

    def _put(self, job: Callable[[Tracker], None] | None) -> None:
        if self._lost.is_set():
            return
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._give_up("takes nothing")

    def _work(self) -> None:
        try:
            self._file.parent.mkdir(exist_ok=True)
            self._note(self._through)
            tracker = self._open(self._run, self._id)
            if (has := getattr(tracker, "through", None)) is not None:  # it knows better what came through
                self._note(has)
            for line in self._missing():
                self._hand_on(tracker, line.pop("step"), line)
            while (job := self._queue.get()) is not None and not self._lost.is_set():
                job(tracker)
        except BaseException as error:  # whatever a service's client raises: the run is not to notice
            self._give_up(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _missing(self) -> list[dict[str, Any]]:
        """The lines before this launch that the service has not."""
        from kljax.runs.directory import read_lines

        if self._through + 1 >= self._run.first_step:
            return []
        lines = read_lines(self._run.path / "metrics.jsonl")
        return [line for line in lines if self._through < line["step"] < self._run.first_step]

    def _hand_on(self, tracker: Tracker, step: int, metrics: Metrics) -> None:
        if step > self._through:
            tracker.write(step, {name: value for name, value in metrics.items() if _is_figure(value)})
            self._note(step)

    def _note(self, step: int) -> None:
        self._through = step
        write_atomically(self._file, json_text({"id": self._id, "through": step}) + "\n")

    def _give_up(self, why: str) -> None:
        if not self._lost.is_set():
            self._lost.set()
            say(
                f"track: {self._name} {why}. This launch goes on without it; metrics.jsonl has everything, and the same "
                "command hands on what is missing."
            )


def _known(file: Path) -> tuple[str, int]:
    """The id of the run with the service, and the last step that it has; a new one, and -1, where that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        there = strict_json(read_bytes(file))
        if isinstance(there["id"], str) and isinstance(there["through"], int):
            return there["id"], there["through"]
    import secrets

    return secrets.token_hex(6), -1


def _is_figure(value: Any) -> bool:
    return not isinstance(value, int | float | None) or (value is not None and math.isfinite(value))
