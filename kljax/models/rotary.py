"""Rotary positions (Su et al. 2021, arXiv:2104.09864) in the two-halves layout of Hugging Face: pairs are (x_i, x_{i+K/2})."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Rotation(NamedTuple):
    """Cosine and sine of each token's angles."""

    cos: Float[Array, "B 1 T K_half"]
    sin: Float[Array, "B 1 T K_half"]


def rotation(positions: Int[Array, "B T"], length: int, head_dim: int, theta: float) -> Rotation:
    """The angles position·theta^(−2i/K) of positions below `length`, in float32 as transformers has them.

    From a table: written as cos(angle), XLA computes it once for each head of each layer, in sampling at every step.
    """
    half = head_dim // 2
    frequency = np.float32(theta) ** (-np.arange(half, dtype=np.float32) / half)
    angle = np.arange(length, dtype=np.float32)[:, None] * frequency
    cos, sin = (jnp.take(table, positions, axis=0, mode="clip")[:, None] for table in (np.cos(angle), np.sin(angle)))
    return Rotation(cos, sin)


def rotate(x: Float[Array, "B heads T K"], by: Rotation) -> Float[Array, "B heads T K"]:
    """Each pair of x turned by its token's angle; computed in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * by.cos - second * by.sin, second * by.cos + first * by.sin], axis=-1).astype(x.dtype)
