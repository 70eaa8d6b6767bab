"""Errors of saves in the background: Orbax raises them again where a save is waited for, so they are not printed as well."""

import logging
import sys
from typing import Any


def print_no_tracebacks() -> None:
    """Keep Orbax, and the storage below it, from printing each failure of a thread as a traceback. Again: nothing more."""
    logging.getLogger("absl").addFilter(_without_traceback)
    if getattr(sys.unraisablehook, "__name__", "") != _Hook.__name__:
        sys.unraisablehook = _Hook(sys.unraisablehook)


def _without_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


class _Hook:
    """Passes on what nobody can catch, but for the writes that were still under way when one of theirs had failed."""

    def __init__(self, before: Any):
        self._before, self.__name__ = before, type(self).__name__

    def __call__(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            self._before(unraisable)
