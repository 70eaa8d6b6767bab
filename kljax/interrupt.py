"""Ctrl-C and SIGTERM end a run between two steps, so that it can save what it has; while it compiles they end it at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)

_left_compiling = threading.Event()  # by a Ctrl-C: XLA goes on in a thread that nothing stops


class Interrupted(KeyboardInterrupt):
    """A run was stopped by the user and has saved; the message says how to go on."""


class StopRequest:
    """While entered, the first SIGINT or SIGTERM sets `asked`; a second one interrupts at once.

    In a thread that is not the main one, which gets no signals, nothing asks.
    """

    asked = False

    def __enter__(self) -> "StopRequest":
        numbers = STOPPING if _gets_signals() else ()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises a KeyboardInterrupt within, as Ctrl-C does: what a scheduler stops lets go of its lock and says so."""
    if not _gets_signals():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Where Ctrl-C comes within, `end_process` will not wait for the compiler.

    XLA goes on compiling in a thread that nothing stops, and which would end in a segmentation fault in the midst of the
    process's destructors. A notebook's process, which catches the KeyboardInterrupt and goes on, is left alone.
    """
    try:
        yield
    except KeyboardInterrupt:
        _left_compiling.set()
        raise


def end_process(code: int) -> NoReturn:
    """End a process that a command line of ours began; without its destructors where a compiler may still be at work."""
    if _left_compiling.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _gets_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
