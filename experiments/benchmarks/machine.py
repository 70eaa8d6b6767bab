"""The machine on which figures are measured: what it can do at best, and what it is."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kljax.runs.directory import environment, git

PRODUCTS = {
    "cpu": ((2048, 2048, 2048), (4096, 1024, 4096), (8192, 512, 2048)),
    "accelerator": ((8192, 8192, 8192), (16384, 4096, 8192), (32768, 2048, 8192)),
}
"""M, K, N of products that are large enough to be as fast as any."""

MOVED = {"cpu": 2**28, "accelerator": 2**30}  # bytes: far beyond every cache
REPEATS = 7


@dataclass(frozen=True)
class Ceiling:
    """Rates of the machine at its best."""

    flops_per_second: float
    bytes_per_second: float


def measure_ceiling(dtype: str) -> Ceiling:
    """The fastest large matrix product and the rate at which a large array is read and written; medians of 7.

    In the dtype of activations and JAX's default precision: what the model's own products have.
    """
    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    product = jax.jit(jnp.matmul)
    rates = []
    for m, k, n in PRODUCTS[kind]:
        left, right = (jax.random.normal(jax.random.key(0), shape, dtype) for shape in ((m, k), (k, n)))
        rates.append(2 * m * k * n / _seconds(lambda _, left=left, right=right: product(left, right), None))
    # In place: into a fresh array the same took six times as long on a CPU, which says nothing of the memory's speed.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.zeros(MOVED[kind] // jnp.dtype(dtype).itemsize, dtype)
    return Ceiling(max(rates), 2 * MOVED[kind] / _seconds(add, array))


def describe() -> dict[str, Any]:
    """Processor, memory, devices, versions, commit, command line, date and how busy the machine is at this moment."""
    return environment() | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "uncommitted_changes": git("status", "--porcelain", "--untracked-files=no") is not None,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "device_kind": jax.devices()[0].device_kind,
        "load_average": os.getloadavg()[0],
    }


def _seconds(function: Callable[[Any], Array], value: Any) -> float:
    """Median time of a call on the result of the one before, which is there by then; the first one compiles."""
    value, seconds = jax.block_until_ready(function(value)), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        value = jax.block_until_ready(function(value))
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
