"""Parts of an objective of supervised fitting: a model, batches, a loss, and figures for held-out rows.

A loss is what the fit minimises, a mean over the batch; outputs are computed for each held-out row, figures from all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import datasets
import numpy as np
from jaxtyping import Array, Float, Key

from kljax.data.labelled import count, take
from kljax.devices.state import Architecture
from kljax.fitting.intervals import Resampled
from kljax.fitting.metrics import Figures
from kljax.runs.setup import Setup
from kljax.types import Params

T = TypeVar("T")

Rows = Any
"""A tree of arrays with the rows first; a batch is one, too."""


@dataclass(frozen=True)
class Objective:
    """A model that is fitted, and how it is judged."""

    architecture: Architecture
    batch: Callable[[int], Rows]  # of a step, to train on
    train: Callable[[int], Rows]  # the first n training rows, without noise, to look at
    held_out: Rows
    test: Rows | None
    loss: Callable[[Any, Rows, Key[Array, ""]], Float[Array, ""]]  # of a model on a batch, with dropout by the key
    outputs: Callable[[Any, Rows], Array]  # of a model, for each row of a batch
    figures: Callable[[np.ndarray, Rows], Figures]  # of all outputs
    resampled: Resampled  # the same where rows are drawn again, for their intervals
    loss_name: str = "loss"  # among the figures
    summary: Callable[[np.ndarray], Figures] = lambda outputs: {}  # what else is said of the fitted model, held out
    labels: tuple[str, ...] = ()  # the names of a classifier's outputs
    units: tuple[float, float] = (1.0, 0.0)  # a, b: a saved model gives a·output + b


def in_units(params: Params, scale: float, shift: float) -> Params:
    """A classifier whose outputs are scale·output + shift; one without biases (a decoder's) is not shifted."""
    if (scale, shift) == (1.0, 0.0) or "out" not in params:
        return params
    moved = {name: leaf * scale + (shift if name == "bias" else 0.0) for name, leaf in params["out"].items()}
    return {**params, "out": moved}


def first_of(rows: T, n: int) -> T:
    """The first n rows of a data set, or as many as it has."""
    return take(rows, np.arange(min(n, count(rows))))


def each_split(setup: Setup, make: Callable[[datasets.Dataset, str], T]) -> tuple[T, T, T | None]:
    """Training, held-out and test rows, each made ready."""
    splits = setup.splits
    test = None if splits.test is None else make(splits.test, "test")
    return make(splits.train, "training"), make(splits.held_out, "held-out"), test
