"""The projection to the vocabulary, chunk by chunk, with one custom gradient for all figures of logits.

A chunk is some time steps of all rows. Where the vocabulary is large, it is taken in blocks, too: each block of the table is
then read, and its gradient written, once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kljax.models.ops.vocabulary.figures import NOTHING, Online
from kljax.types import struct


@struct
class Head:
    """Hidden states and what projects them to the vocabulary: logits = states·tableᵀ + bias, float32."""

    states: Float[Array, "B T D"]
    table: Float[Array, "V D"]
    bias: Float[Array, "V"] | None = None


def of_whole_logits(figures: Callable[[list[Array], Any], Any]) -> Online:
    """figures(logits of each head [B c V], given [B c]) → a tree of [B c], which must see all of the vocabulary at once."""

    def gradient(logits, given, first, kept, cotangent):
        return jax.vjp(lambda logits: figures(logits, given), logits)[1](cotangent)[0]

    return Online(
        lambda given: None, lambda sums, logits, given, first: figures(logits, given), lambda sums: (sums, None), gradient
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def map_logits(figures: Online, chunk: int, block: int | None, heads: tuple[Head, ...], given: Any) -> Any:
    """The figures of every token, `chunk` time steps and `block` entries of the vocabulary (None: all) at once.

    The backward pass makes the logits again. `given` is a tree of integer arrays [B T] (tokens): no gradient. Numbers that go
    in and come out are [B, T].
    """
    return _forward(figures, chunk, block, heads, given)[0]


def _forward(figures, chunk, block, heads, given):
    blocks = _blocks(heads, block)

    def numbers(inputs):
        states, given = inputs

        def add(sums, one):
            first, tables = one
            return figures.add(sums, _projections(tables, states, first, heads), given, first), None

        return figures.finish(_folded(add, figures.begin(given), blocks))

    found = jax.lax.map(numbers, _chunks(([head.states for head in heads], given), chunk))
    found, kept = _joined(found, _length(heads))
    return found, (heads, given, kept)


def _backward(figures, chunk, block, saved, cotangent):
    heads, given, kept = saved
    blocks, chunks = _blocks(heads, block), _chunks(([head.states for head in heads], given, kept, cotangent), chunk)

    def of_block(d_states, one):
        first, tables = one

        def of_chunk(sums, inputs):
            states, given, kept, cotangent = inputs
            d_logits = figures.gradient(_projections(tables, states, first, heads), given, first, kept, cotangent)
            d_states, more = _gradients(tables, states, d_logits)
            return jax.tree.map(jnp.add, sums, more), d_states

        sums, more = jax.lax.scan(of_chunk, jax.tree.map(_transposed_zeros, tables), chunks)
        return more if d_states is None else jax.tree.map(jnp.add, d_states, more), sums

    if len(blocks[0]) == 1:
        d_states, sums = of_block(None, jax.tree.map(lambda x: x[0], blocks))
        sums = jax.tree.map(lambda x: x[None], sums)
    else:
        d_states, sums = jax.lax.scan(of_block, jax.tree.map(jnp.zeros_like, chunks[0]), blocks)
    d_states = _joined(d_states, _length(heads))
    d_heads = tuple(_whole(*each) for each in zip(heads, d_states, sums, strict=True))
    return d_heads, None


map_logits.defvjp(_forward, _backward)


def _blocks(heads, block):
    """Where each block of the vocabulary begins, and its rows of each head's table and bias; the last filled up with zeros."""
    size = heads[0].table.shape[0]
    count = 1 if block is None else -(-size // block)
    rows = -(-size // count)

    def split(x):
        x = jnp.pad(x, [(0, count * rows - size)] + [(0, 0)] * (x.ndim - 1)) if count * rows > size else x
        return x.reshape(count, rows, *x.shape[1:])

    return jnp.arange(count) * rows, [(split(head.table), None if head.bias is None else split(head.bias)) for head in heads]


def _folded(add, start, blocks):
    """A scan over the blocks; none where there is one."""
    if len(blocks[0]) == 1:
        return add(start, jax.tree.map(lambda x: x[0], blocks))[0]
    if start is None:
        raise ValueError("block: these figures need the whole vocabulary at once; give block=None.")
    return jax.lax.scan(add, start, blocks)[0]


def _projections(tables, states, first, heads) -> list[Float[Array, "B c rows"]]:
    """Logits of each head for these states and this block; what it was filled up with is no token."""
    size = heads[0].table.shape[0]
    logits = []
    for (table, bias), each in zip(tables, states, strict=True):
        found = jnp.einsum("btd,vd->btv", each, table.astype(each.dtype), preferred_element_type=jnp.float32)
        found = found if bias is None else found + bias
        if size % len(table):
            found = jnp.where(first + jnp.arange(len(table)) < size, found, NOTHING)
        logits.append(found)
    return logits


def _gradients(tables, states, d_logits):
    """Of each head's states; and of its table and bias, the table's as [D, V], so that the small factor is transposed."""
    d_states, sums = [], []
    for (table, bias), each, d in zip(tables, states, d_logits, strict=True):
        flat, rows = d.reshape(-1, d.shape[-1]).astype(each.dtype), each.reshape(-1, each.shape[-1])
        d_states.append((flat @ table.astype(flat.dtype)).reshape(each.shape))
        d_table = jnp.einsum("nd,nv->dv", rows, flat, preferred_element_type=jnp.float32)
        sums.append((d_table, None if bias is None else flat.sum(axis=0)))
    return d_states, sums


def _transposed_zeros(x):
    return jnp.zeros(x.shape[::-1], jnp.float32)


def _whole(head: Head, d_states, sums) -> Head:
    """The gradient of a head from those of its blocks."""
    size, (tables, biases) = head.table.shape[0], sums
    d_table = jnp.moveaxis(tables, 0, 1).reshape(tables.shape[1], -1)[:, :size].T.astype(head.table.dtype)
    return Head(d_states, d_table, None if biases is None else biases.reshape(-1)[:size].astype(head.bias.dtype))  # pyright: ignore


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
