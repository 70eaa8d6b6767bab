"""A batch's gradient in parts, one after another: the memory of one part, the gradient of all."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.types import Params

Gradient = Callable[[Any], tuple[Params, Any]]
"""A batch (a tree of [B, …] or [N, …]) → the gradient of its mean loss, and a tree of [B, …] beside it."""


def accumulate(gradient: Gradient, batch: Any, count: int, samples: int, axes: Any = 0) -> tuple[Params, Any]:
    """gradient(batch), by a scan over `count` parts of equal size; the same but for the rounding of sums.

    The loss is a mean over sequences, so the gradient is the mean of the parts' gradients. The `samples` of a prompt stay
    together, as their baseline needs; each part takes every count-th prompt, so that it lies on all devices as the batch does.
    What there is of prompts and not of their samples (N rows, where the first leaf has B = N·samples) goes with its prompt.
    `axes` says along which axis the rows of a leaf lie, as for `jax.vmap`: 1 where layers come first.
    """
    if count == 1:
        return gradient(batch)
    prompts = len(jax.tree.leaves(batch)[0]) // samples

    def split(axis: int, tree: Any) -> Any:
        return jax.tree.map(lambda x: _split(jnp.moveaxis(x, axis, 0), count, x.shape[axis] // prompts), tree)

    def back(axis: int, tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), tree)

    parts = jax.tree.map(split, axes, batch)

    def of_part(part: Any) -> tuple[Params, Any]:
        return gradient(jax.tree.map(back, axes, part))

    def add(total: Params, part: Any) -> tuple[Params, Any]:
        found, beside = of_part(part)
        return jax.tree.map(jnp.add, total, found), beside

    shapes, _ = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
    total, beside = jax.lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), parts)
    return jax.tree.map(lambda x: x / count, total), jax.tree.map(lambda x: _joined(x, samples), beside)


def _split(x: Any, count: int, rows: int) -> Any:
    """[N·rows, …] → [count, N/count·rows, …]."""
    by_prompt = x.reshape(-1, count, rows, *x.shape[1:])
    return jnp.moveaxis(by_prompt, 1, 0).reshape(count, -1, *x.shape[1:])


def _joined(x: Any, samples: int) -> Any:
    """The inverse of `_split`."""
    by_prompt = x.reshape(x.shape[0], -1, samples, *x.shape[2:])
    return jnp.moveaxis(by_prompt, 0, 1).reshape(-1, *x.shape[2:])
