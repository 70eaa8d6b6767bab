"""Ctrl-C and SIGTERM end a run between two steps, so that it can save what it has."""

import signal
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A run was stopped by the user and has saved; the message says how to go on."""


class StopRequest:
    """While entered, the first SIGINT or SIGTERM sets `asked`; a second one interrupts at once."""

    asked = False

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
