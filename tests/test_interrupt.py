"""Ctrl-C while XLA compiles: the process ends with its exit code, not with a crash in the destructors under the compiler."""

import os
import signal
import subprocess
import sys

import pytest

from kljax import interrupt
from kljax.interrupt import ending_at_once

COMPILING = """
import atexit, os, signal, sys
from kljax.interrupt import ending_at_once
atexit.register(print, "destroyed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
try:
    with ending_at_once():
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("Interrupted.")
    sys.exit(2)
"""


def test_ctrl_c_ends_the_process_before_anything_is_destroyed():
    ended = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, env=dict(os.environ))
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGINT, "Interrupted.\n"), ended.stderr


def test_nothing_else_does(monkeypatch):
    monkeypatch.setattr(interrupt.atexit, "register", lambda *_: pytest.fail("the process would end"))
    with pytest.raises(ValueError), ending_at_once():
        raise ValueError
    with ending_at_once():
        pass
