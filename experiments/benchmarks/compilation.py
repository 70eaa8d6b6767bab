"""How long compiling takes, measured so that a process's history does not count."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax

COMPILES = 3  # of each program, in turn; the fastest counts

Job = Callable[[], tuple[Any, ...]]
"""Makes a jitted function and its inputs. It is sent to another process: no lambda."""


def seconds_to_compile(jobs: Sequence[Job]) -> list[float]:
    """Seconds to trace, lower and compile what each job makes, no cache helping.

    Each time in a new process, since one is the slower at it the more it has compiled: the step of `scaling.BASE`,
    compiled as if it were three programs in turn, takes 9, 10 and 11 s.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        turns = [[processes.submit(_time_compilation, job).result() for job in jobs] for _ in range(COMPILES)]
    return [min(seconds) for seconds in zip(*turns, strict=True)]


def _time_compilation(job: Job) -> float:
    jax.config.update("jax_compilation_cache_dir", None)
    program, *inputs = job()
    began = time.perf_counter()
    program.lower(*inputs).compile()
    return time.perf_counter() - began
