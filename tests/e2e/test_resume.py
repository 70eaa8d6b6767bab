"""A run that is killed or interrupted and started again is, bit for bit, the run that was not."""

import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from kljax.config import MeshConfig
from kljax.training import run_directory
from kljax.training.restore import restore

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"
STEPS, SAVE_EVERY = 14, 3
LONG = [f"steps={STEPS}", f"run.save_every={SAVE_EVERY}", "run.variant=run"]
INTERRUPTED = 130  # exit code
PATIENCE = 120  # seconds for a start, imports and compilation included


def launch(overrides):
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(overrides):
    process = launch(overrides)
    output, _ = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, output
    return output


def wait_for_line(process, file: Path, count: int):
    """Until the run has logged `count` steps."""
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no step {count} within {PATIENCE} s"
        time.sleep(0.001)


def run_in(root: Path) -> Path:
    return root / "grammar" / "run"


def metrics_of(run: Path):
    lines = run_directory.read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


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
    stop_at(command(tmp_path), tmp_path, steps.randint(1, 6), signal.SIGKILL)
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


def stop_at(overrides, root, step, by):
    """Launch, send the signal once so many steps are logged; the exit code and what was said."""
    process = launch(overrides)
    wait_for_line(process, run_in(root) / "metrics.jsonl", step)
    process.send_signal(by)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output
