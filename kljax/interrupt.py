"""Ctrl-C and SIGTERM end a run between two steps, so that it can save what it has; while it compiles they end it at once."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Where Ctrl-C comes within, the process will end without its destructors.

    XLA goes on compiling in a thread that nothing stops, and which would end in a segmentation fault in the midst of them.
    """
    try:
        yield
    except KeyboardInterrupt:
        atexit.register(_end)
        raise


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + signal.SIGINT)
