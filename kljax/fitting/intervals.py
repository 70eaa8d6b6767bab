"""Intervals of figures of rows: what they would be of other rows from the same source, by drawing the rows again (bootstrap).

A figure of a draw is computed from `counts`, how often each row was drawn, with all draws at once: sums over rows are one
product of matrices. A row of ones gives the figure itself. (kljax.tasks.bootstrap is of sums alone, and of groups of samples;
ranks, and pairs of rows, are no sums.)
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from kljax.runs.intervals import LEVEL

Counts = Float[np.ndarray, "draws rows"]
Resampled = Callable[[np.ndarray, Any, Counts], Mapping[str, Float[np.ndarray, "draws *of_each"]]]
"""Of all outputs, their rows and the counts: each figure's value in each draw."""

DRAWS, SEED = 1000, 0
AT_ONCE = 2**22  # counts that are held at once


def intervals(resampled: Resampled, outputs: np.ndarray, rows: Any) -> dict[str, list[Any]]:
    """Each figure's 95 % percentile interval, [low, high], or a list of these: 1,000 draws of as many rows, by a fixed seed.

    Efron 1979. A figure that is not defined in more than 5 % of the draws, such as a correlation where all rows are alike, has
    none, nor has any of a single row.
    """
    rng, total = np.random.default_rng(SEED), len(outputs)
    if total < 2:
        return {}
    size = max(1, AT_ONCE // total)
    draws = [resampled(outputs, rows, _counts(rng, min(size, DRAWS - start), total)) for start in range(0, DRAWS, size)]
    tail = (1 - LEVEL) / 2
    found = {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}
    return {
        name: np.moveaxis(np.nanquantile(values, [tail, 1 - tail], axis=0), 0, -1).tolist()
        for name, values in found.items()
        if np.isfinite(values).all(axis=tuple(range(1, values.ndim))).mean() >= LEVEL
    }


def _counts(rng: np.random.Generator, draws: int, rows: int) -> Counts:
    """How often each row was drawn, each time from all of them."""
    drawn = rng.integers(rows, size=(draws, rows)) + rows * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)
