"""From hidden states to numbers a token, over the vocabulary: logits exist for a few steps at a time, in both directions.

One custom gradient for all that reads logits: RL's scores, maximum likelihood (forward KL to the data), masked tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kljax.types import struct


@struct
class Head:
    """Hidden states and what projects them to the vocabulary: logits = states·tableᵀ + bias, float32."""

    states: Float[Array, "B T D"]
    table: Float[Array, "V D"]
    bias: Float[Array, "V"] | None = None


Figures = Callable[..., Any]
"""(logits of each head [B c V], given [B c]) → a tree of [B c]."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def map_logits(figures: Figures, chunk: int, heads: tuple[Head, ...], given: Any) -> Any:
    """figures(logits, given) of every token, `chunk` time steps at once; the backward pass makes the logits again.

    `given` is a tree of integer arrays [B T] (tokens): no gradient. Numbers that go in and come out are [B, T].
    """

    def numbers(inputs):
        states, given = inputs
        return figures([_project(s, head) for s, head in zip(states, heads, strict=True)], given)

    inputs = [head.states for head in heads], given
    return _joined(jax.lax.map(numbers, _chunks(inputs, chunk)), _length(heads))


def _forward(figures, chunk, heads, given):
    return map_logits(figures, chunk, heads, given), (heads, given)


def _backward(figures, chunk, saved, cotangent):
    heads, given = saved

    def step(sums, inputs):
        states, given, cotangent = inputs
        logits = [_project(s, head) for s, head in zip(states, heads, strict=True)]
        (d_logits,) = jax.vjp(lambda logits: figures(logits, given), logits)[1](cotangent)
        flat = [d.reshape(-1, d.shape[-1]).astype(s.dtype) for d, s in zip(d_logits, states, strict=True)]
        d_states = [(d @ head.table.astype(d.dtype)).reshape(s.shape) for d, s, head in zip(flat, states, heads, strict=True)]
        # The table's gradient is summed as [D, V]: so the small factor of the product is transposed and not the logits.
        sums = [_added(*each) for each in zip(sums, flat, states, strict=True)]
        return sums, d_states

    zeros = [(jnp.zeros(head.table.shape[::-1], jnp.float32), _zeros(head.bias)) for head in heads]
    inputs = [head.states for head in heads], given, cotangent
    sums, d_states = jax.lax.scan(step, zeros, _chunks(inputs, chunk))
    d_states = _joined(d_states, _length(heads))
    d_heads = tuple(
        Head(states, table.T.astype(head.table.dtype), bias)
        for head, states, (table, bias) in zip(heads, d_states, sums, strict=True)
    )
    return d_heads, None


map_logits.defvjp(_forward, _backward)


def _project(states, head: Head) -> Float[Array, "B c V"]:
    logits = jnp.einsum("btd,vd->btv", states, head.table.astype(states.dtype), preferred_element_type=jnp.float32)
    return logits if head.bias is None else logits + head.bias


def _added(sums, d_logits, states):
    table, bias = sums
    flat = states.reshape(-1, states.shape[-1])
    table = table + jnp.einsum("nd,nv->dv", flat, d_logits, preferred_element_type=jnp.float32)
    return table, None if bias is None else bias + d_logits.sum(axis=0)


def _zeros(bias):
    return None if bias is None else jnp.zeros_like(bias)


def _length(heads: tuple[Head, ...]) -> int:
    return heads[0].states.shape[1]


def _chunks(tree: Any, size: int) -> Any:
    """[B, T, …] → [chunks, B, size, …], the last chunk filled up with zeros."""
    length = jax.tree.leaves(tree)[0].shape[1]
    size = min(size, length)
    count = -(-length // size)

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, tree)


def _joined(tree: Any, length: int) -> Any:
    def join(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

    return jax.tree.map(join, tree)
