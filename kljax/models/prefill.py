"""Prompts read once, whatever the number of their samples: where sampling starts, and what scoring shares."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kljax.models.decoder import Cache, Decoder, causal_mask, positions_of
from kljax.models.ops.recall import Activations


class Prefill(NamedTuple):
    """The part of prompts that completions need: the hidden state after each, and keys and values with room for what follows.

    `found` are the layers' activations over the prompts.
    """

    hidden: Float[Array, "B D"]
    cache: Cache
    found: Activations


def prefill(
    model: Decoder,
    tokens: Int[Array, "N P"],
    mask: Bool[Array, "N P"],
    samples: int,
    room: int,
    dtype: str | None = None,
    known: Activations | None = None,
) -> Prefill:
    """Read the N distinct prompts, then repeat what was read for each of their samples (B = N·G); no dropout.

    The cache has P + `room` slots, in `dtype` or that of the activations; a completion's tokens go into those from P on. What
    is `known` of the layers is not computed again.
    """
    hidden, found = model(tokens, positions_of(mask), causal_mask(mask), known=known)

    def with_room(read: Float[Array, "*L N kv_heads P K"]) -> Float[Array, "*L B kv_heads S K"]:
        return jnp.repeat(grown(read.astype(dtype or read.dtype), room), samples, axis=read.ndim - 4)

    cache = jax.tree.map(with_room, (found.keys, found.values))
    return Prefill(jnp.repeat(hidden[:, -1], samples, axis=0), cache, found)


def grown(x: Float[Array, "*dims S K"], room: int) -> Float[Array, "*dims S_room K"]:
    """Keys or values with so many more slots, empty."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, room), (0, 0)])
