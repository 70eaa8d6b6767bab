"""Softmax attention that keeps no weights for its backward pass: queries, keys and one number a row give them again.

As FlashAttention has it (Dao et al. 2022, arXiv:2205.14135), without its tiles: what is saved is O(T·K), not O(T·S), and the
closed-form gradient is half the work of the one that autodiff writes down for a masked softmax.

In the gradient weights lie keys first, so that no product but that for the queries has to turn them: of 127 queries it takes a
quarter less time on a CPU. Going forward, sums over each query's keys are fastest where those lie side by side.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kljax.models.layers import keep

ALIGNED = 8  # rows: products of other numbers of queries or keys take up to a third longer on a CPU
HIDDEN = -1e30  # finite, so that a row that may look at nothing (padding) gets numbers and no NaN


def split_heads(x: Float[Array, "B T D"], head_dim: int) -> Float[Array, "B heads T K"]:
    """Each head's part of the last axis."""
    return x.reshape(*x.shape[:2], -1, head_dim).swapaxes(1, 2)


def join_heads(x: Float[Array, "B heads T K"]) -> Float[Array, "B T D"]:
    """The inverse of `split_heads`."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1)


class Attended(NamedTuple):
    """Attention's result, and the logarithm of the sum that normalises each row's weights."""

    out: Float[Array, "B heads T K"]
    log_total: Float[Array, "B heads T 1"]


def attend(
    q: Float[Array, "B heads T K"],
    k: Float[Array, "B kv_heads S K"],
    v: Float[Array, "B kv_heads S K"],
    mask: Bool[Array, "B #T S"],
) -> Float[Array, "B heads T K"]:
    """softmax(q·k/√K over the keys that `mask` shows)·v. Head h reads key/value head h // (heads/kv_heads).

    Scores and sums are float32. A row that may look at no key is a mean of arbitrary values, and has no gradient.
    """
    return attention(q, k, v, mask).out


@jax.custom_vjp
def attention(
    q: Float[Array, "B heads T K"],
    k: Float[Array, "B kv_heads S K"],
    v: Float[Array, "B kv_heads S K"],
    mask: Bool[Array, "B #T S"],
    known: Attended | None = None,
) -> Attended:
    """`attend`, and what its backward pass needs beside its inputs: with both `known`, nothing is computed forward.

    Only `out` has a gradient.
    """
    return _forward(q, k, v, mask, known)[0]


def _forward(q, k, v, mask, known):
    found = keep(_attended(q, k, v, mask)) if known is None else known
    return found, (q, k, v, mask, found)


def _attended(q, k, v, mask):
    length = q.shape[2]
    (q,), (k, v), mask = _aligned((q,), (k, v), mask)
    rows, shape = _grouped(q, k), q.shape
    scores = _product("bhtk,bhsk->bhts", rows, k) * shape[-1] ** -0.5
    scores = jnp.where(_repeated(mask, q, k)[:, None], scores, HIDDEN)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product("bhts,bhsk->bhtk", weights.astype(v.dtype), v) / total).astype(q.dtype)
    found = out.reshape(shape), (largest + jnp.log(total)).reshape(*shape[:-1], 1)
    return Attended(*(x[:, :, :length] for x in found))


def _backward(saved, cotangent):
    q, k, v, mask, found = saved
    length, slots = q.shape[2], k.shape[2]
    of_queries, (keys, values), mask = _aligned((q, *found, cotangent.out), (k, v), mask)
    shown = _repeated(mask, of_queries[0], keys).swapaxes(1, 2)[:, None]
    rows, out, log_total, d_out = (_grouped(x, keys) for x in of_queries)
    scale = q.shape[-1] ** -0.5
    scores = _product("bhsk,bhtk->bhst", keys, rows) * scale
    weights = jnp.where(shown, jnp.exp(scores - log_total.swapaxes(2, 3)), 0.0)
    d_weights = _product("bhsk,bhtk->bhst", values, d_out)
    shared = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    d_scores = (weights * (d_weights - shared[:, :, None])).astype(q.dtype)  # but for the scale, which smaller arrays get
    d_q = _product("bhks,bhst->bhkt", keys.swapaxes(2, 3), d_scores).swapaxes(2, 3) * scale
    d_k = _product("bhst,bhtk->bhsk", d_scores, rows) * scale
    d_v = _product("bhst,bhtk->bhsk", weights.astype(v.dtype), d_out)
    d_q = d_q.astype(q.dtype).reshape(of_queries[0].shape)[:, :, :length]
    return d_q, d_k[:, :, :slots].astype(k.dtype), d_v[:, :, :slots].astype(v.dtype), None, None


attention.defvjp(_forward, _backward)


def _aligned(of_queries, of_keys, mask):
    """All with zeros up to a multiple of ALIGNED rows, new keys hidden. With fewer queries (a cache is read) as they are."""
    length, slots = of_queries[0].shape[2], of_keys[0].shape[2]
    if length < ALIGNED:
        return of_queries, of_keys, mask
    queries, keys = -length % ALIGNED, -slots % ALIGNED
    mask = jnp.pad(mask, [(0, 0), (0, queries if mask.shape[1] > 1 else 0), (0, keys)])
    return [_longer(x, queries) for x in of_queries], [_longer(x, keys) for x in of_keys], mask


def _longer(x, rows):
    return jnp.pad(x, [(0, 0), (0, 0), (0, rows), (0, 0)])


def _grouped(x, k):
    """The rows of all heads that read one key/value head side by side: [B, kv_heads, heads/kv_heads · T, …]."""
    return x.reshape(*k.shape[:2], -1, x.shape[-1])


def _repeated(mask, q, k):
    """The mask of those rows; one that is for all queries as it is."""
    return mask if mask.shape[1] == 1 else jnp.tile(mask, (1, q.shape[1] // k.shape[1], 1))


def _product(axes, a, b):
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
