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


@pytest.mark.parametrize(("reward", "kills"), [("sentiment", [(1, 7), (7, 13)]), ("regex", [(1, 13)])])
def test_killed_at_random_steps_and_restarted_it_is_the_uninterrupted_run(command, whole, tmp_path, reward, kills):
    """With a reward on the device (one program) and in Python (two halves)."""
    rng = random.Random(reward)
    for low, high in kills:
        process = launch(command(tmp_path, reward))
        wait_for_line(process, run_in(tmp_path) / "metrics.jsonl", rng.randint(low, high))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(command(tmp_path, reward))
    assert_same_run(run_in(tmp_path), whole(reward))


def test_ctrl_c_saves_says_how_to_go_on_and_goes_on(command, whole, tmp_path):
    process = launch(command(tmp_path))
    wait_for_line(process, run_in(tmp_path) / "metrics.jsonl", 4)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "The same command goes on from there." in output
    assert "Traceback" not in output
    assert f"of {STEPS}." in finish(command(tmp_path))
    assert_same_run(run_in(tmp_path), whole("sentiment"))
