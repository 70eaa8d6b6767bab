"""Softmax attention that keeps no weights for its backward pass: queries, keys and one number a row give them again.

As FlashAttention has it (Dao et al. 2022, arXiv:2205.14135), without its tiles: what is saved is O(T·K), not O(T·S), and the
closed-form gradient is half the work of the one that autodiff writes down for a masked softmax.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    found = _attended(q, k, v, mask) if known is None else known
    return found, (q, k, v, mask, found)


def _attended(q, k, v, mask):
    grouped = _grouped(q, k)
    scores = jnp.where(mask[:, None, None], _scores(grouped, k), HIDDEN)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product("bhrts,bhsk->bhrtk", weights.astype(v.dtype), v) / total).astype(q.dtype)
    return Attended(out.reshape(q.shape), (largest + jnp.log(total)).reshape(*q.shape[:-1], 1))


def _backward(saved, cotangent):
    q, k, v, mask, found = saved
    grouped, out, log_total, cotangent = (_grouped(x, k) for x in (q, *found, cotangent.out))
    weights = jnp.where(mask[:, None, None], jnp.exp(_scores(grouped, k) - log_total), 0.0)
    d_weights = _product("bhrtk,bhsk->bhrts", cotangent, v)
    shared = jnp.sum(cotangent.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    d_scores = (weights * (d_weights - shared) * q.shape[-1] ** -0.5).astype(q.dtype)
    d_q = _product("bhrts,bhsk->bhrtk", d_scores, k).astype(q.dtype).reshape(q.shape)
    d_k = _product("bhrts,bhrtk->bhsk", d_scores, grouped).astype(k.dtype)
    d_v = _product("bhrts,bhrtk->bhsk", weights.astype(v.dtype), cotangent).astype(v.dtype)
    return d_q, d_k, d_v, None, None


attention.defvjp(_forward, _backward)


def _grouped(x, k):
    """What each head has, by the key/value head that it reads: [B, kv_heads, heads/kv_heads, …]."""
    return x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:])


def _scores(grouped, k):
    return _product("bhrtk,bhsk->bhrts", grouped, k) * grouped.shape[-1] ** -0.5


def _product(axes, a, b):
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
