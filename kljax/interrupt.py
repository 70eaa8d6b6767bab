"""Ctrl-C and SIGTERM end a run between two steps, so that it can save what it has; while it compiles they end it at once."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130  # exit code


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


def end_process(code: int) -> NoReturn:
    """End a process that a command line of ours began and that was interrupted, without its destructors.

    XLA goes on compiling in threads that nothing stops, and which would end in a segmentation fault in the midst of them. A
    notebook's process, which catches the KeyboardInterrupt and goes on, is left alone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # such as those of a reward, which would outlive it
        if child.daemon:
            child.terminate()
    os._exit(code)


def _gets_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
