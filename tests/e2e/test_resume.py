"""A run that is killed or interrupted and started again is, bit for bit, the run that was not."""

import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from kljax.config import MeshConfig
from kljax.runs import directory
from kljax.runs.restore import restore

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"
STEPS, SAVE_EVERY = 14, 3
LONG = [f"steps={STEPS}", f"run.save_every={SAVE_EVERY}", "run.variant=run"]
MISTAKE, INTERRUPTED = 2, 130  # exit codes
PATIENCE = 120  # seconds for a start, imports and compilation included


PROCESSES = multiprocessing.get_context("forkserver")  # each its own, from one that has the imports done
PROCESSES.set_forkserver_preload(["kljax.runs.evaluation", "kljax.command_line", "kljax.training.loop", "transformers"])


class Launched:
    """A process that runs train.py as from a shell, and what it says."""

    def __init__(self, overrides):
        self._output = Path(tempfile.mkstemp()[1])
        self._process = PROCESSES.Process(target=run_script, args=([str(TRAIN), *overrides], str(self._output)))
        self._process.start()

    def send(self, sign):
        os.kill(self._process.pid, sign)

    def running(self):
        return self._process.is_alive()

    def end(self):
        """Its exit code and all that it said, once it is over."""
        self._process.join(2 * PATIENCE)
        return self._process.exitcode, self._output.read_text()


def run_script(arguments, output):
    stream = os.open(output, os.O_WRONLY)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def finish(overrides):
    code, output = Launched(overrides).end()
    assert code == 0, output
    return output


def wait_for_line(process, file: Path, count: int):
    """Until the run has logged `count` steps."""
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert process.running(), process.end()
        assert time.monotonic() < deadline, f"no step {count} within {PATIENCE} s"
        time.sleep(0.001)


def run_in(root: Path) -> Path:
    return root / "grammar" / "run"


def metrics_of(run: Path):
    lines = directory.read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith(("time/", "memory/"))} for line in lines]


def assert_same_run(actual: Path, expected: Path):
    assert metrics_of(actual) == metrics_of(expected)
    assert [line["step"] for line in metrics_of(actual)] == list(range(STEPS))
    assert (actual / "samples.jsonl").read_text() == (expected / "samples.jsonl").read_text()
    ours, theirs = (restore(run, STEPS, MeshConfig(data=1, fsdp=1, tensor=1)) for run in (actual, expected))
    for a, b in zip(jax.tree.leaves(ours.policy), jax.tree.leaves(theirs.policy), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(ours.policy), jax.tree.leaves(ours.reference), strict=True))


@pytest.fixture(scope="module")
def command(tiny_in):
    """command(root, reward): the same command line, writing below root."""
    return lambda root, reward="sentiment": [*tiny_in(root), *LONG, f"reward=[{reward}]"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """whole(reward): the run directory of the uninterrupted run, made once."""

    @cache
    def make(reward: str) -> Path:
        root = tmp_path_factory.mktemp(reward)
        finish(command(root, reward))
        return run_in(root)

    return make


def test_killed_interrupted_and_restarted_it_is_the_uninterrupted_run(command, whole, tmp_path):
    """With a reward on the device: one program. Killed at a random step, stopped by Ctrl-C at a later one, then finished."""
    steps = random.Random(0)
    stop_at(command(tmp_path), tmp_path, steps.randint(1, 6), signal.SIGSTOP, signal.SIGKILL, second=command(tmp_path))
    code, output = stop_at(command(tmp_path), tmp_path, steps.randint(8, 12), signal.SIGINT)
    assert code == INTERRUPTED
    assert "The same command goes on from there." in output
    assert "Traceback" not in output
    assert f"of {STEPS}." in finish(command(tmp_path))
    assert_same_run(run_in(tmp_path), whole("sentiment"))


def test_killed_with_a_reward_in_python_and_restarted_it_is_the_uninterrupted_run(command, whole, tmp_path):
    """Two programs, and the reward between them."""
    regex = command(tmp_path, "regex")
    stop_at(regex, tmp_path, random.Random(1).randint(1, 13), signal.SIGKILL)
    finish(regex)
    assert_same_run(run_in(tmp_path), whole("regex"))


def stop_at(overrides, root, step, *by, second=None):
    """Launch, send the signals once so many steps are logged; the exit code and what was said."""
    process = Launched(overrides)
    wait_for_line(process, run_in(root) / "metrics.jsonl", step)
    process.send(by[0])
    if second is not None:
        assert_second_launch_is_refused(second, run_in(root))
    for sign in by[1:]:
        process.send(sign)
    return process.end()


def assert_second_launch_is_refused(overrides, run):
    """While the first one is there, but stands still: not a byte is another one, but what it was saving at that instant."""
    before = contents(run)
    code, output = Launched(overrides).end()
    assert code == MISTAKE
    assert output.startswith(f"kljax: {run} is being written by process ")
    assert contents(run) == before


def contents(run):
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and "checkpoints" not in file.parts}
