"""Ctrl-C or SIGTERM while XLA compiles: the process ends with its exit code, not with a crash under the compiler."""

import signal
import subprocess
import sys
import threading

import pytest

from kljax.command_line import INTERRUPTED, reporting_mistakes
from kljax.interrupt import StopRequest

COMPILING = """
import atexit, os, signal, sys
from kljax.command_line import reporting_mistakes
atexit.register(print, "destroyed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
with reporting_mistakes():
    print("compiling")
    os.kill(os.getpid(), signal.{sign})
    print("compiled")
"""


def run(program):
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_process_before_anything_is_destroyed(sign):
    assert run(COMPILING.format(sign=sign)) == (INTERRUPTED, "compiling\n", "\nInterrupted.\n")


def test_outside_of_a_command_sigterm_is_what_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with reporting_mistakes():
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_in_another_thread_than_the_main_one_is_asked_by_nobody():
    entered = []

    def enter():
        with StopRequest() as stop, reporting_mistakes():
            entered.append(stop.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [False]
