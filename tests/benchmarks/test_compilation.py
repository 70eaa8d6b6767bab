"""Compilation is timed in new processes, in turn, without a cache."""

import os
from functools import partial

import jax
import jax.numpy as jnp

from experiments.benchmarks import compilation

NAMES = ("a", "b")


def job(file, name):
    """Says who was asked, in which process and with which cache."""
    with file.open("a") as log:
        log.write(f"{name} {os.getpid()} {jax.config.jax_compilation_cache_dir}\n")
    return jax.jit(jnp.sin), jnp.ones(3)


def test_jobs_are_timed_in_turn_each_time_in_a_new_process(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation, "COMPILES", 2)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    log = tmp_path / "log"
    seconds = compilation.seconds_to_compile([partial(job, log, name) for name in NAMES])
    names, processes, caches = zip(*(line.split() for line in log.read_text().splitlines()), strict=True)
    assert names == NAMES * 2
    assert len({*processes, str(os.getpid())}) == len(names) + 1
    assert set(caches) == {"None"}
    assert len(seconds) == len(NAMES)
    assert min(seconds) > 0


def test_the_fastest_counts(monkeypatch):
    taken = iter([3.0, 1.0, 2.0, 5.0])

    class Here:
        def __init__(self, *args, **kwargs): ...

        def __enter__(self):
            return self

        def __exit__(self, *args): ...

        def submit(self, function, job):
            return self

        def result(self):
            return next(taken)

    monkeypatch.setattr(compilation, "COMPILES", 2)
    monkeypatch.setattr(compilation, "ProcessPoolExecutor", Here)
    assert compilation.seconds_to_compile([tuple, tuple]) == [2.0, 1.0]
