"""Sizes of what stays are counted to the byte; the peak is the system's."""

import jax
import pytest

from experiments.benchmarks.process_memory import STATUS, measure
from kljax.runs.setup import prepare

LEAST = 2**26  # bytes: a Python with JAX has more


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_what_stays_is_counted_and_the_peak_is_above_it(tiny):
    config = tiny()
    memory = measure(config, steps=1)
    count = sum(leaf.size for leaf in jax.tree.leaves(prepare(config).architecture.shapes))
    assert memory.trained == 4 * count
    assert 2 * memory.trained <= memory.optimizer < 2.1 * memory.trained  # two moments, and step counts
    assert memory.frozen == memory.trained
    assert min(memory.peak, memory.before) > LEAST  # no more: in this process other tests' memory comes and goes
